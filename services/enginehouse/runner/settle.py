"""Settles an attempt: first the record, then the completion, then the acknowledgement; never in another order."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError, Malformed
from enginehouse.contracts.events import (
    COMPLETION_ALSO_MAX,
    JOB_COMPLETED,
    JOB_STARTED,
    RECORD_ALONG_MAX_CHARS,
    HandedJob,
    completion_event,
)
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import COMPLETIONS_TOPIC
from enginehouse.contracts.proofs import EngineKey
from enginehouse.runner.attempt import Attempt, Execution
from enginehouse.runner.outcome import Outcome, Succeeded, decide, jittered, record_for
from enginehouse.runner.pace import Pace
from enginehouse.runner.recent_ends import RecentEnds
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.gather import Gather
from enginehouse.sidecar.records import JobRecords, record_text

_log = structlog.get_logger(__name__)

_PUBLISH_TRIES = 4

_Hint = tuple[str, Status, int]
"""Event type, status and attempt that all jobs of one hint have in common."""


class _Told(NamedTuple):
    """A job of a hint."""

    job_id: str
    record: str | None
    """Its final record as JSON text, if that is small."""


class Settler:
    """Writes the records of one engine's attempts, and publishes the hints that they have changed."""

    def __init__(
        self,
        sidecar: Sidecar,
        records: JobRecords,
        recent_ends: RecentEnds,
        pace: Pace,
        engine_id: str,
        key: EngineKey,
        pubsub: str,
    ) -> None:
        self._sidecar = sidecar
        self._records = records
        self._recent_ends = recent_ends
        self._pace = pace
        self._engine_id = engine_id
        self._key = key
        self._pubsub = pubsub
        self._hints = Gather(self._publish, at_most=1 + COMPLETION_ALSO_MAX)
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
            _log.error(
                "A result could not be written in the record's own time and is given up",
                action="settle_failed",
                job_id=job_id,
                error=str(error),
            )
            return False
        size = outcome.size if isinstance(outcome, Succeeded) else 0
        self._recent_ends.add(job_id, held, size)
        if held == wanted or held.status is wanted.status:
            await self._publish_hint(JOB_COMPLETED, job_id, held, size)
        return True

    async def rewrite(self, event: HandedJob, ended: JobRecord) -> bool:
        """Write again how a job ended, because the store has forgotten it: stores are restored from older backups."""
        _log.warning("The record of an ended job is gone and is written again", action="restored", job_id=event.id)
        held = await self._records.restore(event.id, event.data.record_ttl_seconds, ended)
        await self._publish_hint(JOB_COMPLETED, event.id, held)
        return True

    def announce_start(self, attempt: Attempt) -> None:
        """Publish the hint that the job runs, without waiting for it."""
        running = JobRecord(status=Status.RUNNING, attempt=attempt.number)
        self._background.start(self._publish_hint(JOB_STARTED, attempt.job_id, running))

    async def _publish_hint(self, kind: str, job_id: str, record: JobRecord, size: int = 0) -> None:
        """Publish the hint that a record has changed. A hint that is lost costs time only: the gateway finds the record.

        Jobs that end while a hint is on its way share the next one: one event on the topic, at the sidecars and at the
        gateway. `size`: about the bytes of the output, so that a large one is not written out for nothing.
        """
        text = record_text(record) if record.status.is_final and size <= RECORD_ALONG_MAX_CHARS else None
        along = text if text and len(text) <= RECORD_ALONG_MAX_CHARS else None
        await self._hints.do((kind, record.status, record.attempt), _Told(job_id, along))

    async def close(self) -> None:
        """Give up the hints that are not published yet."""
        await self._background.close()
        await self._hints.close(finish_seconds=0)

    async def _publish(self, hint: _Hint, told: Sequence[_Told]) -> list[None]:
        kind, status, attempt = hint
        job_ids = [one.job_id for one in told]
        records = {one.job_id: one.record for one in told if one.record}
        event = completion_event(self._key, self._engine_id, kind, job_ids[0], status, attempt, job_ids[1:], records)
        for tries in range(_PUBLISH_TRIES):
            try:
                await self._sidecar.publish(self._pubsub, COMPLETIONS_TOPIC, event)
                break
            except EnginehouseError as error:
                last = error
                await asyncio.sleep(self._pause(tries))
        else:
            _log.warning(
                "The completion of some jobs could not be published",
                action="tell_failed",
                job_ids=job_ids,
                error=str(last),
            )
        return [None] * len(job_ids)

    async def _write(self, execution: Execution, outcome: Outcome, wanted: JobRecord) -> JobRecord:
        """Write the record, again and again until that works. Raise only when the record's own time would be over."""
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
        """Return the seconds to wait after a failure that follows `tries` others in a row."""
        pause = self._pace.settle_retry_first_seconds * float(2 ** min(tries, 10))
        return jittered(min(self._pace.settle_retry_longest_seconds, pause))
