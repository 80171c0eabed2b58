"""Tells an engine's breaker how attempts ended, and carries out its verdict; has senseless answers counted."""

import time

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.job import JobErrorCode, Status
from enginehouse.gateway.engines.breaker import LATE, NEUTRAL
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import DEFAULT_CARD, KnownEngine
from enginehouse.gateway.engines.misbehaviour import Misbehaviour
from enginehouse.gateway.engines.transitions import Transitions
from enginehouse.gateway.ledger.rows import JobRow

_ERROR_CODES = frozenset(JobErrorCode)


class BreakerFeed:
    """Pauses an engine that keeps failing, quarantines one that does not recover, and ends pauses."""

    def __init__(self, catalogue: Catalogue, transitions: Transitions, misbehaviour: Misbehaviour) -> None:
        self._catalogue = catalogue
        self._transitions = transitions
        self._misbehaviour = misbehaviour

    async def note_end(self, row: JobRow) -> None:
        """Tell the breaker how the last attempt at a job ended, and move the engine if the breaker or the count says so."""
        engine = self._catalogue.get(row.engine)
        if engine is None or row.status is Status.RUNNING:
            return
        await self._misbehaviour.note_end(engine, row)
        await self._tell_breaker(engine, row)

    async def _tell_breaker(self, engine: KnownEngine, row: JobRow) -> None:
        phase = engine.phase_of(row.started_at)
        if row.status is Status.SUCCEEDED:
            if engine.breaker.succeeded(phase):
                await self._transitions.move(engine, EngineState.ACTIVE, detail="by the breaker: a job succeeded")
            return
        if row.error is None or not _blames_engine(row, row.error.code, engine):
            return
        verdict = engine.breaker.failed(row.id, row.tenant, row.error.code, phase)
        if verdict is None:
            return
        detail = f"by the breaker: {verdict.reason}" if row.error.code in _ERROR_CODES else "by the breaker"
        if verdict.quarantine:
            reason = f"{verdict.reason}. Deploy it repaired, or resume it: enginehouse engines resume {engine.id}"
            await self._transitions.move(engine, EngineState.QUARANTINED, reason, detail=detail)
        else:
            reason = (
                f"{verdict.reason}. From time to time one job is tried, until one succeeds; a new deployment, or "
                f"enginehouse engines resume {engine.id}, ends the pause at once"
            )
            probe_at = time.time() + verdict.pause_seconds
            await self._transitions.move(engine, EngineState.PAUSED, reason, probe_at, detail=detail)

    async def start_anew(self, engine: KnownEngine) -> None:
        """Give an engine that was deployed anew an empty breaker, and end its pause.

        Its quarantine goes on: only its card says that it was deployed, and code that has taken its sidecar can write that.
        On trial, where a quarantine only withholds jobs, one of the breaker ends as well.
        """
        engine.forget_failures()
        self._misbehaviour.start_anew(engine)
        is_free = engine.is_trial and engine.state == EngineState.QUARANTINED and not engine.by_operator
        if engine.state == EngineState.PAUSED or is_free:
            await self._transitions.move(engine, EngineState.ACTIVE, detail="by the breaker: it was deployed anew")


def _blames_engine(row: JobRow, code: str, engine: KnownEngine) -> bool:
    """Say whether a failure with `code` counts against the engine."""
    if code in NEUTRAL or engine.state in (EngineState.QUARANTINED, EngineState.RETIRED):
        return False
    # A job with less time than the card asks for must not count: otherwise one tenant could pause an engine for all.
    card = engine.card or DEFAULT_CARD
    return code != LATE or row.options.execution_timeout_seconds >= card.execution_timeout_seconds
