"""What an operator does to engines: quarantine, resume, purge."""

import asyncio
from typing import Any

from sqlalchemy import Row

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import Conflict
from enginehouse.contracts.job import Status
from enginehouse.gateway.engines.breaker import Breaker
from enginehouse.gateway.engines.catalogue import KnownEngine
from enginehouse.gateway.gateway import GatewayState
from enginehouse.gateway.ledger import read
from enginehouse.gateway.outcome import decisions

_PURGE_AT_ONCE = 100


async def quarantine(state: GatewayState, engine_id: str, reason: str) -> KnownEngine:
    """Stop delivery: nothing more is handed over, and the runner is told to take nothing more."""
    engine = state.engines.resolve_any(engine_id)
    await state.states.move(engine, EngineState.QUARANTINED, reason)
    return engine


async def resume(state: GatewayState, engine_id: str) -> KnownEngine:
    """Give an engine its jobs again, with a clean slate."""
    engine = state.engines.resolve_any(engine_id)
    engine.breaker = Breaker()
    await state.states.let_go_on(engine)
    await state.states.move(engine, EngineState.ACTIVE)
    state.dispatcher.wake(engine.id)
    return engine


async def purge(state: GatewayState, engine_id: str) -> int:
    """Cancel what waits for an engine; returns how many. What runs goes on."""
    engine = state.engines.resolve_any(engine_id)
    seen = set[str]()

    async def cancel(row: Row[Any]) -> bool:
        try:
            return (await state.sweep.decide(row, decisions.purged)).status is Status.CANCELED
        except Conflict:
            return False

    canceled = 0
    while rows := [
        row for row in await state.ledger.read(read.waiting, engine.id, _PURGE_AT_ONCE) if row.id not in seen
    ]:
        seen.update(row.id for row in rows)
        canceled += sum(await asyncio.gather(*(cancel(row) for row in rows)))
    return canceled
