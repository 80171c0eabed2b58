"""Acts on changed rows: wakes callers, updates limits and breakers, sends notices, and hands over the next jobs."""

import asyncio
import time
from collections.abc import Sequence

import structlog

from enginehouse.audit.log import AuditLog
from enginehouse.contracts.audit import JOB_ENDED, AuditEntry
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobErrorCode, Status
from enginehouse.gateway.engines.breaker_feed import BreakerFeed
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger.mirror import Mirrored
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.outcome.end_samples import EndSamples
from enginehouse.gateway.outcome.expected_jobs import ExpectedJobs
from enginehouse.gateway.outcome.waiters import Waiters
from enginehouse.gateway.tenants.limits import Limits

log = structlog.get_logger()

_ERROR_CODES = frozenset(JobErrorCode)
_SKEW_SECONDS = 1.0
"""Tolerated difference between a runner's clock and this gateway's."""
_RETRY_MARGIN_SECONDS = 0.005
"""Wakes the dispatcher a little late, so that it finds the job available."""


class Consequences:
    """Informs every part that depends on a job's row when the row has been mirrored."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        breaker_feed: BreakerFeed,
        notifier: Notifier,
        *,
        waiters: Waiters,
        limits: Limits,
        expected: ExpectedJobs,
        samples: EndSamples,
        audit: AuditLog,
    ) -> None:
        self._dispatcher = dispatcher
        self._breaker_feed = breaker_feed
        self._notifier = notifier
        self._waiters = waiters
        self._limits = limits
        self._expected = expected
        self._samples = samples
        self._audit = audit
        self.last_begun: dict[str, float] = {}
        """For each engine: of the jobs that it has begun, the latest moment of a hand-over."""

    async def follow(self, mirrored: Sequence[Mirrored]) -> None:
        """Act on rows that were just mirrored."""
        for item in mirrored:
            if item.row.status.is_final:
                self._ended(item)
            if item.changed:
                await self._changed(item)
        for engine_id in {item.row.engine for item in mirrored}:
            if self._dispatcher.backlog.of(engine_id):
                self._dispatcher.wake(engine_id)

    def _ended(self, item: Mirrored) -> None:
        row = item.row
        self._expected.forget(row.id)
        if item.changed:
            # The limit is freed before the caller wakes, because it may submit its next job at once.
            self._limits.ended(row.tenant)
            self._samples.add(row.engine, row.id)
            self._audit.record(_end_of(row))
        self._waiters.wake(row.id, row)

    async def _changed(self, item: Mirrored) -> None:
        row = item.row
        self._note_begun(item)
        self._dispatcher.grouping.note_end(row)
        if item.has_notices:
            self._notifier.wake()
        try:
            await self._breaker_feed.note_end(row)
        except EnginehouseError as error:
            log.warning(
                f"The breaker of {row.engine} did not learn how job {row.id} ended: {error}",
                action="lesson_lost",
                engine_id=row.engine,
                job_id=row.id,
            )
        if not row.status.is_final:
            self._waiters.wake(row.id, None)
        if row.status is Status.QUEUED:
            self._wake_when_available(row)

    def _note_begun(self, item: Mirrored) -> None:
        row, handed_over_at = item.row, item.handed_over_at
        if handed_over_at and (row.started_at or 0) >= handed_over_at - _SKEW_SECONDS:
            self.last_begun[row.engine] = max(self.last_begun.get(row.engine, 0), handed_over_at)

    def _wake_when_available(self, row: JobRow) -> None:
        delay = max(row.available_at - time.time(), 0) + _RETRY_MARGIN_SECONDS
        asyncio.get_running_loop().call_later(delay, self._dispatcher.wake, row.engine)


def _end_of(row: JobRow) -> AuditEntry:
    """Return the audit log's entry for the end of a job. Of an error it has the code, and no word of the engine."""
    ended_at = row.finished_at or time.time()
    return AuditEntry(
        ended_at,
        JOB_ENDED,
        row.status.value,
        tenant=row.tenant,
        engine=row.engine,
        version=row.version,
        job=row.id,
        ms=round((ended_at - row.created_at) * 1_000, 3),
        detail=row.error.code if row.error and row.error.code in _ERROR_CODES else None,
    )
