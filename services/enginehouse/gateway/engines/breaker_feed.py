"""Tells an engine's breaker how attempts ended, and carries out its verdict."""

import contextlib
import time

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import Status
from enginehouse.gateway.engines.breaker import LATE, NEUTRAL
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import DEFAULT_CARD, KnownEngine
from enginehouse.gateway.engines.transitions import Transitions
from enginehouse.gateway.ledger.rows import JobRow


class BreakerFeed:
    """Pauses an engine that keeps failing, quarantines one that does not recover, and ends pauses."""

    def __init__(self, catalogue: Catalogue, transitions: Transitions) -> None:
        self._catalogue = catalogue
        self._transitions = transitions

    async def note_end(self, row: JobRow) -> None:
        """Tell the breaker how the last attempt at a job ended, and move the engine if the breaker says so."""
        engine = self._catalogue.get(row.engine)
        if engine is None or row.status is Status.RUNNING:
            return
        phase = engine.phase_of(row.started_at)
        if row.status is Status.SUCCEEDED:
            if engine.breaker.succeeded(phase):
                await self._transitions.move(engine, EngineState.ACTIVE)
            return
        if row.error is None or not _blames_engine(row, row.error.code, engine):
            return
        verdict = engine.breaker.failed(row.id, row.tenant, row.error.code, phase)
        if verdict is None:
            return
        if verdict.quarantine:
            reason = f"{verdict.reason}. Deploy it repaired, or resume it: enginehouse engines resume {engine.id}"
            await self._transitions.move(engine, EngineState.QUARANTINED, reason)
        else:
            reason = (
                f"{verdict.reason}. From time to time one job is tried, until one succeeds; a new deployment, or "
                f"enginehouse engines resume {engine.id}, ends the pause at once"
            )
            await self._transitions.move(engine, EngineState.PAUSED, reason, time.time() + verdict.pause_seconds)

    async def start_anew(self, engine: KnownEngine) -> None:
        """Give an engine that was deployed anew an empty breaker, and its jobs, unless an operator holds it."""
        engine.forget_failures()
        if not engine.takes_no_jobs or engine.by_operator:
            return
        await self._transitions.move(engine, EngineState.ACTIVE)
        # If the runners cannot be told now, the sweep tells them.
        with contextlib.suppress(EnginehouseError):
            await self._transitions.write_control(engine)


def _blames_engine(row: JobRow, code: str, engine: KnownEngine) -> bool:
    """Say whether a failure with `code` counts against the engine."""
    if code in NEUTRAL or engine.state in (EngineState.QUARANTINED, EngineState.RETIRED):
        return False
    # A job with less time than the card asks for must not count: otherwise one tenant could pause an engine for all.
    card = engine.card or DEFAULT_CARD
    return code != LATE or row.options.execution_timeout_seconds >= card.execution_timeout_seconds
