"""What an operator does to engines: quarantine, resume, purge."""

from enginehouse.contracts.errors import Conflict
from enginehouse.contracts.events import ENGINE_STATE_EVENTS
from enginehouse.contracts.job import Status
from enginehouse.contracts.names import CONTROL_KEY, results_component
from enginehouse.gateway import decisions
from enginehouse.gateway.breaker import Breaker
from enginehouse.gateway.engines import ACTIVE, QUARANTINED, KnownEngine
from enginehouse.gateway.ledger import read
from enginehouse.gateway.state import GatewayState

_PURGE_AT_ONCE = 500


async def quarantine(state: GatewayState, engine_id: str, reason: str) -> KnownEngine:
    """Stop delivery: nothing more is handed over, and the runner is told to take nothing more."""
    engine = state.engines.resolve_any(engine_id)
    await state.engines.set_state(engine, QUARANTINED, reason)
    await state.sidecar.put(results_component(engine.id), CONTROL_KEY, b'{"stopped":true}')
    await state.notifier.tell(engine.tenant, ENGINE_STATE_EVENTS[QUARANTINED], {"engine": engine.id, "reason": reason})
    return engine


async def resume(state: GatewayState, engine_id: str) -> KnownEngine:
    """Give an engine its jobs again, with a clean slate."""
    engine = state.engines.resolve_any(engine_id)
    engine.breaker = Breaker()
    await state.sidecar.put(results_component(engine.id), CONTROL_KEY, b'{"stopped":false}')
    await state.engines.set_state(engine, ACTIVE)
    state.dispatcher.wake(engine.id)
    return engine


async def purge(state: GatewayState, engine_id: str) -> int:
    """Cancel what waits for an engine; returns how many. What runs goes on."""
    engine = state.engines.resolve_any(engine_id)
    canceled, seen = 0, set[str]()
    while rows := [
        row for row in await state.ledger.read(read.waiting, engine.id, _PURGE_AT_ONCE) if row.id not in seen
    ]:
        for row in rows:
            seen.add(row.id)
            try:
                record = await state.sweep.decide(row, decisions.purged)
            except Conflict:
                continue
            canceled += record.status is Status.CANCELED
    return canceled
