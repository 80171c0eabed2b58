"""Claims jobs that take longer than a moment, and watches the records of those that run."""

import asyncio
from collections.abc import Callable

import structlog

from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobRecord
from enginehouse.runner.admit import Acknowledge, Admission, Run, Settle
from enginehouse.runner.attempt import Attempt, Execution
from enginehouse.runner.outcome import decide_claim
from enginehouse.sidecar.records import JobRecords

_log = structlog.get_logger(__name__)
_TRIES = 3

Lost = Callable[[str], None]
"""Told why an attempt no longer matters."""


class Claims:
    """Writes `running` records; one loop re-reads all of them in one round trip."""

    def __init__(self, records: JobRecords, admission: Admission, announce: Callable[[Attempt], None]) -> None:
        self._records = records
        self._admission = admission
        self._announce = announce

    async def claim(self, execution: Execution) -> str | None:
        """Write in the record that this attempt runs. Return why it may not run, or None if it may.

        Raise Unavailable if that cannot be known now.
        """
        for _ in range(_TRIES):
            held = await self._records.change(
                execution.attempt.job_id,
                execution.attempt.order.record_ttl_seconds,
                lambda present: decide_claim(execution.attempt, present),
                blind=not execution.record_seen,
            )
            execution.record_seen = True
            if execution.attempt.owns(held):
                if not execution.announced:
                    execution.announced = True
                    self._announce(execution.attempt)
                return None
            refusal = await self._refusal(execution, held)
            if refusal is not None:
                return refusal
        return "its record changes too often"

    async def claim_again(self, execution: Execution, held: JobRecord | None) -> str | None:
        """Claim the job if `held` is not this attempt's claim: it may be missing. Return as `claim` does."""
        return None if execution.attempt.owns(held) else await self.claim(execution)

    async def _refusal(self, execution: Execution, held: JobRecord) -> str | None:
        """Return why `held` keeps the attempt from running; None if its worker has vanished, so that it is claimed again."""
        attempt = execution.attempt
        judgement = await self._admission.judge(
            job_id=attempt.job_id, number=attempt.number, order=attempt.order, record=held
        )
        match judgement:
            case Run(number, takes_over):
                execution.become(number, takes_over)
                return None
            case Acknowledge(reason):
                return reason
            case Settle():
                # A worker vanished in the last attempt allowed. This attempt would be one too many, so it must not count.
                return "no attempts are left"


class Watch:
    """Re-reads the records of long-running attempts and tells each that has lost its job."""

    def __init__(self, records: JobRecords, claims: Claims, every_seconds: float) -> None:
        self._records = records
        self._claims = claims
        self._every = every_seconds
        self._watched: dict[str, tuple[Execution, Lost]] = {}
        self._background = Background()
        self._reading: asyncio.Task[None] | None = None

    def add(self, execution: Execution, lost: Lost) -> None:
        """Watch from now on."""
        self._watched[execution.attempt.job_id] = (execution, lost)
        if self._reading is None or self._reading.done():
            self._reading = self._background.start(self._run())

    def remove(self, execution: Execution) -> None:
        """Watch no longer."""
        self._watched.pop(execution.attempt.job_id, None)

    async def stop(self) -> None:
        """End watching."""
        await self._background.close()

    async def _run(self) -> None:
        while self._watched:
            await asyncio.sleep(self._every)
            watched = list(self._watched.values())
            try:
                found = await self._records.read_many([execution.attempt.job_id for execution, _ in watched])
            except EnginehouseError as error:
                _log.warning("Records of running jobs cannot be read", action="watch_failed", error=str(error))
                continue
            for execution, lost in watched:
                stored = found.get(execution.attempt.job_id)
                await self._check(execution, stored.record if stored else None, lost)

    async def _check(self, execution: Execution, held: JobRecord | None, lost: Lost) -> None:
        if not self._watches(execution):
            return
        try:
            why = await self._claims.claim_again(execution, held)
        except EnginehouseError as error:
            _log.warning(
                "A running job could not be claimed yet",
                action="claim_failed",
                job_id=execution.attempt.job_id,
                error=str(error),
            )
            return
        if why is not None and self._watches(execution):
            lost(why)

    def _watches(self, execution: Execution) -> bool:
        watched = self._watched.get(execution.attempt.job_id)
        return watched is not None and watched[0] is execution
