"""Lets follow what must follow when a row changed: callers wake, limits and breakers learn, the next jobs go out."""

import asyncio
import time
from collections.abc import Sequence

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import Status
from enginehouse.gateway.engines.lessons import Lessons
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger.mirror import Mirrored
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.outcome.end_samples import EndSamples
from enginehouse.gateway.outcome.expected_jobs import ExpectedJobs
from enginehouse.gateway.outcome.waiters import Waiters
from enginehouse.gateway.tenants.limits import Limits

log = structlog.get_logger()

_SKEW_SECONDS = 1.0
"""Between a runner's clock and ours."""
_RETRY_MARGIN_SECONDS = 0.005
"""So that the job is available when the dispatcher looks."""


class Consequences:
    """Tells every part that must know of a mirrored row."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        lessons: Lessons,
        notifier: Notifier,
        *,
        waiters: Waiters,
        limits: Limits,
        expected: ExpectedJobs,
        samples: EndSamples,
    ) -> None:
        self._dispatcher = dispatcher
        self._lessons = lessons
        self._notifier = notifier
        self._waiters = waiters
        self._limits = limits
        self._expected = expected
        self._samples = samples
        self.last_begun: dict[str, float] = {}
        """For each engine, when the job was handed over that was handed over last among those it has begun."""

    async def follow(self, engine_id: str, mirrored: Sequence[Mirrored]) -> None:
        """Let everything follow from rows of one engine that were just mirrored."""
        for item in mirrored:
            if item.row.status.is_final:
                self._ended(item)
            if item.changed:
                await self._changed(item)
        if mirrored and self._dispatcher.backlog.get(engine_id):
            self._dispatcher.wake(engine_id)

    def _ended(self, item: Mirrored) -> None:
        row = item.row
        self._expected.forget(row.id)
        if item.changed:
            # Before its caller wakes, which may submit the next job at once.
            self._limits.ended(row.tenant)
            self._samples.add(row.engine, row.id)
        self._waiters.wake(row.id, row)

    async def _changed(self, item: Mirrored) -> None:
        row = item.row
        self._note_begun(item)
        if item.has_notices:
            self._notifier.wake()
        try:
            await self._lessons.learn(row)
        except EnginehouseError as error:
            log.warning(
                f"The breaker of {row.engine} did not learn how a job ended: {error}",
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
