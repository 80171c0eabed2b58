"""Claims jobs that take longer than a moment, and watches the records of jobs that run."""

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

OnLost = Callable[[str], None]
"""Called with the reason when an attempt must end because its record no longer belongs to it."""


class Claims:
    """Writes `running` records."""

    def __init__(self, records: JobRecords, admission: Admission, announce: Callable[[Attempt], None]) -> None:
        """`announce` is called once for each attempt, after its claim is written."""
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
        """Claim the job if `held` is not this attempt's claim, for example because it is missing. Return as `claim` does."""
        return None if execution.attempt.owns(held) else await self.claim(execution)

    async def _refusal(self, execution: Execution, held: JobRecord) -> str | None:
        """Return why the record `held` keeps the attempt from running.

        Return None if the worker in that record has vanished: the attempt takes over, and its claim is to be repeated.
        """
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
                # A worker vanished in the last attempt allowed. This attempt is one too many, so it must not count.
                return "no attempts are left"


class RecordWatch:
    """Reads the records of running attempts again and again, all in one round trip, and ends attempts that lost theirs."""

    def __init__(self, records: JobRecords, claims: Claims, every_seconds: float) -> None:
        self._records = records
        self._claims = claims
        self._every_seconds = every_seconds
        self._watched: dict[str, tuple[Execution, OnLost]] = {}
        self._background = Background()
        self._reading: asyncio.Task[None] | None = None

    def add(self, execution: Execution, on_lost: OnLost) -> None:
        """Watch the attempt's record, until `remove`."""
        self._watched[execution.attempt.job_id] = (execution, on_lost)
        if self._reading is None or self._reading.done():
            self._reading = self._background.start(self._run())

    def remove(self, execution: Execution) -> None:
        """Stop watching the attempt's record."""
        self._watched.pop(execution.attempt.job_id, None)

    async def stop(self) -> None:
        """Stop watching all records."""
        await self._background.close()

    async def _run(self) -> None:
        while self._watched:
            await asyncio.sleep(self._every_seconds)
            watched = dict(self._watched)
            try:
                found = await self._records.read_many(list(watched))
            except EnginehouseError as error:
                _log.warning(
                    "The records of running jobs cannot be read",
                    action="watch_failed",
                    job_ids=list(watched),
                    error=str(error),
                )
                continue
            for job_id, (execution, on_lost) in watched.items():
                stored = found.get(job_id)
                await self._check(execution, stored.record if stored else None, on_lost)

    async def _check(self, execution: Execution, held: JobRecord | None, on_lost: OnLost) -> None:
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
            on_lost(why)

    def _watches(self, execution: Execution) -> bool:
        watched = self._watched.get(execution.attempt.job_id)
        return watched is not None and watched[0] is execution
