"""Settles an attempt: the record, then the completion, then the acknowledgement; never in another order."""

import asyncio
from collections.abc import Sequence

import structlog

from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError, Malformed
from enginehouse.contracts.events import COMPLETION_ALSO_MAX, JOB_COMPLETED, JOB_STARTED, JobEvent, completion_event
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import COMPLETIONS_TOPIC, jobs_component
from enginehouse.runner.attempt import Attempt, Execution
from enginehouse.runner.outcome import Outcome, Succeeded, decide, jittered, record_for
from enginehouse.runner.pace import Pace
from enginehouse.runner.settled import Settled
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.gather import Gather
from enginehouse.sidecar.records import JobRecords

_log = structlog.get_logger(__name__)

_PUBLISH_TRIES = 4


class Settler:
    """Writes and tells what came of the attempts of one engine."""

    def __init__(self, sidecar: Sidecar, records: JobRecords, settled: Settled, pace: Pace, engine_id: str) -> None:
        self._sidecar = sidecar
        self._records = records
        self._engine_id = engine_id
        self._pubsub = jobs_component(engine_id)
        self._settled = settled
        self._pace = pace
        self._hints = Gather(self._publish_hint, at_most=1 + COMPLETION_ALSO_MAX)
        self._background = Background()

    async def settle(self, execution: Execution, outcome: Outcome) -> bool:
        """Settle the attempt; return whether its delivery may be acknowledged.

        Holds the outcome for as long as the record cannot be written.
        """
        wanted = record_for(outcome, execution, now())
        if wanted is None:
            return True
        job_id = execution.attempt.job_id
        try:
            held = await self._write(execution, outcome, wanted)
        except Malformed:
            raise
        except EnginehouseError as error:
            _log.error("A result is given up", action="settle_failed", job_id=job_id, error=str(error))
            return False
        self._settled.add(job_id, held, outcome.size if isinstance(outcome, Succeeded) else 0)
        if held == wanted or held.status is wanted.status:
            await self.tell(JOB_COMPLETED, job_id, held.status, held.attempt)
        return True

    async def rewrite(self, event: JobEvent, ended: JobRecord) -> bool:
        """Write again how a job ended, where the store has forgotten it: a store may come back older than it was."""
        _log.warning("The record of an ended job is gone and is written again", action="restored", job_id=event.id)
        held = await self._records.restore(event.id, event.data.record_ttl_seconds, ended)
        await self.tell(JOB_COMPLETED, event.id, held.status, held.attempt)
        return True

    def announce_start(self, attempt: Attempt) -> None:
        """Tell, beside the work, that the job runs."""
        self._background.start(self.tell(JOB_STARTED, attempt.job_id, Status.RUNNING, attempt.number))

    async def close(self) -> None:
        """Give up the hints that are not published yet."""
        await self._background.close()
        await self._hints.close(finish_seconds=0)

    async def tell(self, kind: str, job_id: str, status: Status, attempt: int) -> None:
        """Publish the hint that a record has changed. One that cannot be published delays, and loses nothing.

        Jobs that end while a hint is on its way share the next one: it is one event on every part of its way then.
        """
        await self._hints.do((kind, status, attempt), job_id)

    async def _publish_hint(self, hint: tuple[str, Status, int], job_ids: Sequence[str]) -> list[None]:
        kind, status, attempt = hint
        event = completion_event(kind, self._engine_id, job_ids[0], status, attempt, job_ids[1:])
        for tries in range(_PUBLISH_TRIES):
            try:
                await self._sidecar.publish(self._pubsub, COMPLETIONS_TOPIC, event)
                break
            except EnginehouseError as error:
                last = error
                await asyncio.sleep(self._pause(tries))
        else:
            _log.warning("A completion could not be published", action="tell_failed", job_ids=job_ids, error=str(last))
        return [None] * len(job_ids)

    async def _write(self, execution: Execution, outcome: Outcome, wanted: JobRecord) -> JobRecord:
        """Write until it works; gives up only when the record's own time would be over."""
        attempt = execution.attempt
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + attempt.order.record_ttl_seconds
        tries = 0
        while True:
            try:
                return await self._records.change(
                    attempt.job_id,
                    attempt.order.record_ttl_seconds,
                    lambda present: decide(outcome, attempt, present, wanted),
                    blind=not execution.record_seen,
                )
            except Malformed:
                raise
            except EnginehouseError as error:
                if loop.time() > give_up_at:
                    raise
                if tries in (0, 5) or tries % 60 == 0:
                    _log.warning(
                        "A result cannot be written yet and is kept in hand",
                        action="settle_delayed",
                        job_id=attempt.job_id,
                        tries=tries + 1,
                        error=str(error),
                    )
                await asyncio.sleep(self._pause(tries))
                tries += 1

    def _pause(self, tries: int) -> float:
        """Return the seconds to wait after the failure that follows `tries` others in a row."""
        pause = self._pace.settle_retry_first_seconds * float(2 ** min(tries, 10))
        return jittered(min(self._pace.settle_retry_longest_seconds, pause))
