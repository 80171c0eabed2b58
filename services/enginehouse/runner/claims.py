"""Claims jobs that take longer than a moment, and watches the records of those that run."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobRecord
from enginehouse.runner.admit import Admission, Run
from enginehouse.runner.outcome import Attempt, decide_claim
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

    async def claim(self, attempt: Attempt) -> str | None:
        """Say in the record that this attempt runs. Returns why it may not, or None. Unavailable: not known now."""
        for _ in range(_TRIES):
            held = await self._records.change(
                attempt.job_id,
                attempt.order.record_ttl_seconds,
                lambda present: decide_claim(attempt, present),
                blind=not attempt.record_seen,
            )
            attempt.record_seen = True
            if attempt.owns(held):
                if not attempt.announced:
                    attempt.announced = True
                    self._announce(attempt)
                return None
            refusal = await self._refusal(attempt, held)
            if refusal is not None:
                return refusal
        return "its record changes too often"

    async def _refusal(self, attempt: Attempt, held: JobRecord) -> str | None:
        """Why `held` keeps this attempt from running; None if its worker has vanished and the claim may be repeated."""
        limit = attempt.order.retry.max_attempts
        verdict = await self._admission.judge(attempt.job_id, attempt.number, limit, held)
        if isinstance(verdict, Run):
            attempt.number, attempt.takes_over = verdict.number, verdict.takes_over
            return None
        # A claim by a worker that vanished in the last attempt: this very run is one too many, so it must not count.
        return getattr(verdict, "reason", "no attempts are left")

    async def still_ours(self, attempt: Attempt, held: JobRecord | None) -> str | None:
        """Claim again if the record went missing or was never written; why it is no longer ours, or None."""
        return None if attempt.owns(held) else await self.claim(attempt)


class Watch:
    """Re-reads the records of long-running attempts and tells each that has lost its job."""

    def __init__(self, records: JobRecords, claims: Claims, every_seconds: float) -> None:
        self._records = records
        self._claims = claims
        self._every = every_seconds
        self._watched: dict[str, tuple[Attempt, Lost]] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, attempt: Attempt, lost: Lost) -> None:
        """Watch from now on."""
        self._watched[attempt.job_id] = (attempt, lost)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def remove(self, attempt: Attempt) -> None:
        """Watch no longer."""
        self._watched.pop(attempt.job_id, None)

    async def stop(self) -> None:
        """End watching."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while self._watched:
            await asyncio.sleep(self._every)
            watched = list(self._watched.values())
            try:
                found = await self._records.read_many([attempt.job_id for attempt, _ in watched])
            except EnginehouseError as error:
                _log.warning("Records of running jobs cannot be read", action="watch_failed", error=str(error))
                continue
            for attempt, lost in watched:
                stored = found.get(attempt.job_id)
                await self._check(attempt, stored.record if stored else None, lost)

    async def _check(self, attempt: Attempt, held: JobRecord | None, lost: Lost) -> None:
        if not self._watches(attempt):
            return
        try:
            why = await self._claims.still_ours(attempt, held)
        except EnginehouseError as error:
            _log.warning(
                "A running job could not be claimed yet", action="claim_failed", job_id=attempt.job_id, error=str(error)
            )
            return
        if why is not None and self._watches(attempt):
            lost(why)

    def _watches(self, attempt: Attempt) -> bool:
        watched = self._watched.get(attempt.job_id)
        return watched is not None and watched[0] is attempt
