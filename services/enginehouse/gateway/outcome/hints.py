"""Takes runners' events from the topic `completions`: hints that records changed, progress, announcements of cards."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import pydantic_core
import structlog
from pydantic import ValidationError

from enginehouse.background import Background
from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.errors import EnginehouseError, Malformed, Unavailable
from enginehouse.contracts.events import (
    ENGINE_ANNOUNCED,
    JOB_PROGRESS,
    RECORD_ALONG_MAX_CHARS,
    WORKER_LEFT,
    Completion,
    ProgressReport,
    progress_id,
    progress_place,
)
from enginehouse.contracts.job import JobRecord
from enginehouse.contracts.names import engine_of, is_job_id, trial_of
from enginehouse.contracts.proofs import EngineKey, ProofKeys
from enginehouse.contracts.text import clean
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobEventRow, start_of
from enginehouse.gateway.outcome.expected_jobs import ExpectedJobs
from enginehouse.gateway.outcome.mirroring import Mirroring
from enginehouse.gateway.outcome.waiters import Waiters

log = structlog.get_logger()

_CLOSE_SECONDS = 5.0


def _brought_along(event: Completion, key: EngineKey, job_ids: Sequence[str]) -> dict[str, JobRecord]:
    """Return the final records of these jobs that an event brings along. What cannot be taken is read in the store.

    `key` proves that a runner of the event's engine has written them, which says nothing about the jobs of another one.
    """
    found: dict[str, JobRecord] = {}
    for job_id, text in event.proven_records(key).items():
        if job_id not in job_ids or len(text) > RECORD_ALONG_MAX_CHARS:
            continue
        try:
            record = JobRecord.model_validate_json(text)
        except ValidationError:
            continue
        if record.status.is_final:
            found[job_id] = record
    return found


class Hints:
    """Mirrors the records of the jobs that hints name: those that come along with proof, and otherwise those in the store."""

    def __init__(
        self,
        ledger: Ledger,
        catalogue: Catalogue,
        expected: ExpectedJobs,
        mirroring: Mirroring,
        waiters: Waiters,
        proof_keys: ProofKeys,
    ) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._expected = expected
        self._mirroring = mirroring
        self._waiters = waiters
        self._proof_keys = proof_keys
        self._background = Background()
        self.on_worker_left: Callable[[str], Coroutine[Any, Any, None]]
        """Called with the id of an engine of which a worker takes no more jobs. Set when the gateway is wired."""

    async def deliver(self, body: bytes) -> bool:
        """Take one delivery. Return True to acknowledge it, False to have it delivered again."""
        try:
            event = read_event(Completion, body)
        except Malformed as error:
            log.warning(f"A completion cannot be read and is dropped: {error}", action="completion_malformed")
            return True
        key = self._proof_keys.of(event.engineid)
        if not event.is_proven(key):
            log.warning(
                "An event that no runner of the engine it names has written is dropped",
                action="completion_unproven",
                named=clean(event.engineid[:100]),
            )
            return True
        if event.type == WORKER_LEFT:
            for address in (event.engineid, trial_of(event.engineid)):
                self._background.start(self.on_worker_left(address))
            return True
        if event.type == ENGINE_ANNOUNCED:
            self._background.start(self._catalogue.announced(event.engineid))
            return True
        job_ids = [job_id for job_id in (event.subject, *event.data.also) if is_job_id(job_id)]
        try:
            if event.type == JOB_PROGRESS:
                return not job_ids or await self._keep_progress(body)
            return await self._mirror(event.engineid, _brought_along(event, key, job_ids), job_ids)
        except EnginehouseError as error:
            log.warning(
                f"A completion cannot be handled now and will be delivered again: {error}",
                action="completion_waits",
                job_id=event.subject,
            )
            return False
        except Exception:
            log.exception(
                "A completion failed and will be delivered again", action="completion_failed", job_id=event.subject
            )
            return False

    async def _mirror(self, engine_id: str, brought: Mapping[str, JobRecord], job_ids: Sequence[str]) -> bool:
        to_read = await self._expected.engines_of([job_id for job_id in job_ids if job_id not in brought])
        try:
            await self._mirroring.apply(engine_id, brought)
            await self._mirroring.mirror(to_read)
        except Unavailable as error:
            # Acknowledge it nevertheless: otherwise hints of an engine whose store is away would fill the places at the
            # sidecar and hold up all others. The sweep reads the record of every job that is handed over.
            log.warning(
                f"A hint is dropped and its jobs are left to the sweep, because a store does not answer: {error}",
                action="hint_dropped",
                job_ids=list(job_ids),
            )
        return True

    async def _keep_progress(self, body: bytes) -> bool:
        try:
            event = read_event(ProgressReport, body)
        except Malformed:
            return True
        if event.id != progress_id(event.subject, event.data.sequence):
            return True
        engine_ids = await self._expected.engines_of([event.subject])
        if engine_of(engine_ids.get(event.subject, "")) == event.engineid:
            value = pydantic_core.to_json(event.data.value).decode()
            rows = [JobEventRow(event.subject, event.data.sequence, event.data.kind, value)]
            attempt, number = progress_place(event.data.sequence)
            if number == 1 and event.worker:
                # The record of the attempt may come later, or never show it as running.
                rows.insert(0, start_of(event.subject, attempt, event.worker))
            await asyncio.gather(*(self._ledger.add_job_event(row) for row in rows))
            self._waiters.wake(event.subject, None)
        return True

    async def listen_to_others(self) -> None:
        """Wake callers, for ever, when another gateway has mirrored their jobs."""

        def heard(payload: str) -> None:
            for job_id in payload.split():
                self._expected.forget(job_id)
                self._waiters.wake(job_id, None)

        await self._ledger.database.listen(heard, self._waiters.wake_all)

    async def close(self) -> None:
        """Finish reading cards."""
        await self._background.close(_CLOSE_SECONDS)
