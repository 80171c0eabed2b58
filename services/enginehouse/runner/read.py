"""Reads a delivery as a job event, and dead-letters a delivery that cannot be read."""

import hashlib

import pydantic_core
import structlog

from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.errors import EnginehouseError, Malformed
from enginehouse.contracts.events import JOB_REQUESTED, DeadLetter, JobEvent, dead_letter_event, proven_job
from enginehouse.contracts.job import JobError
from enginehouse.contracts.names import DEAD_LETTERS_TOPIC, is_job_id
from enginehouse.contracts.proofs import EngineKey
from enginehouse.contracts.text import without_signatures
from enginehouse.runner.metrics import RunnerMetrics
from enginehouse.sidecar.base import Sidecar

_log = structlog.get_logger(__name__)

_EVENT_TEXT_MAX_BYTES = 64 * 1024


class DeliveryReader:
    """Reads the deliveries of one engine."""

    def __init__(self, sidecar: Sidecar, metrics: RunnerMetrics, engine_id: str, key: EngineKey, pubsub: str) -> None:
        self._sidecar = sidecar
        self._metrics = metrics
        self._engine_id = engine_id
        self._key = key
        self._pubsub = pubsub

    def read(self, body: bytes) -> JobEvent:
        """Return the job event in `body`; raise Malformed if it is not a job event of this engine."""
        event = read_event(JobEvent, body)
        if event.type != JOB_REQUESTED:
            raise Malformed(f"type: {event.type[:100]!r} is not {JOB_REQUESTED}")
        if event.engineid != self._engine_id:
            raise Malformed(f"engineid: {event.engineid[:100]!r} is not this engine, {self._engine_id}")
        for job in event.jobs:
            if not is_job_id(job.id):
                raise Malformed(f"id: {job.id[:100]!r} is not a job id")
            if not job.is_proven(self._key):
                raise Malformed("proof: it is not that of a gateway with the same proof key")
        return event

    async def dead_letter(self, body: bytes, error: Malformed, job_id: str | None = None) -> bool:
        """Publish the delivery as a dead letter; return whether it may be acknowledged.

        `job_id`: given if the event can be read, and the job's record cannot.
        """
        job_id = job_id or self._job_in(body)
        log = _log.bind(engine_id=self._engine_id, **({"job_id": job_id} if job_id else {}))
        log.warning(
            "A delivery cannot be read as a job of this engine and is dead-lettered",
            action="dead_lettered",
            error=str(error),
        )
        letter = DeadLetter(
            reason="UNPARSABLE",
            error=JobError(code=error.code, message=str(error)),
            event=without_signatures(body[:_EVENT_TEXT_MAX_BYTES].decode("utf-8", "replace")),
            job_id=job_id,
        )
        # The same bytes get the same id, so that a second delivery is recognised as the same dead letter.
        letter_id = hashlib.sha256(body + (job_id or "").encode()).hexdigest()[:32]
        event = dead_letter_event(self._key, self._engine_id, letter_id, letter)
        try:
            await self._sidecar.publish(self._pubsub, DEAD_LETTERS_TOPIC, event)
        except EnginehouseError as failure:
            log.warning(
                "A dead letter cannot be published yet, so its delivery is asked for again",
                action="dead_letter_failed",
                error=str(failure),
            )
            return False
        self._metrics.deliveries.labels("unparsable").inc()
        return True

    def _job_in(self, body: bytes) -> str | None:
        """Return the id of the job that a delivery proves, although it is no job event otherwise or its end is missing."""
        try:
            return proven_job(pydantic_core.from_json(body, allow_partial=True), self._key)
        except ValueError:
            return None
