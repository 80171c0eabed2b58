"""Reads a delivery as a job event, and dead-letters a delivery that cannot be read."""

import hashlib

import pydantic_core
import structlog

from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.errors import EnginehouseError, Malformed
from enginehouse.contracts.events import JOB_REQUESTED, DeadLetter, JobEvent, dead_letter_event
from enginehouse.contracts.job import JobError
from enginehouse.contracts.names import DEAD_LETTERS_TOPIC, is_job_id, jobs_component
from enginehouse.contracts.text import without_signatures
from enginehouse.runner.metrics import RunnerMetrics
from enginehouse.sidecar.base import Sidecar

_log = structlog.get_logger(__name__)

_EVENT_TEXT_MAX_BYTES = 64 * 1024


class DeliveryReader:
    """Reads the deliveries of one engine."""

    def __init__(self, sidecar: Sidecar, metrics: RunnerMetrics, engine_id: str) -> None:
        self._sidecar = sidecar
        self._metrics = metrics
        self._engine_id = engine_id

    def read(self, body: bytes) -> JobEvent:
        """Return the job event in `body`; raise Malformed if it is not a job event of this engine."""
        event = read_event(JobEvent, body)
        if event.type != JOB_REQUESTED:
            raise Malformed(f"type: {event.type[:100]!r} is not {JOB_REQUESTED}")
        if event.engineid != self._engine_id:
            raise Malformed(f"engineid: {event.engineid[:100]!r} is not this engine, {self._engine_id}")
        if not is_job_id(event.id):
            raise Malformed(f"id: {event.id[:100]!r} is not a job id")
        return event

    async def dead_letter(self, body: bytes, error: Malformed, job_id: str | None = None) -> bool:
        """Publish the delivery as a dead letter; return whether it may be acknowledged.

        `job_id`: given if the event can be read, and the job's record cannot.
        """
        job_id = job_id or _job_in(body)
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
        event = dead_letter_event(
            engine_id=self._engine_id, event_id=hashlib.sha256(body).hexdigest()[:32], letter=letter
        )
        try:
            await self._sidecar.publish(jobs_component(self._engine_id), DEAD_LETTERS_TOPIC, event)
        except EnginehouseError as failure:
            log.warning(
                "A dead letter cannot be published yet, so its delivery is asked for again",
                action="dead_letter_failed",
                error=str(failure),
            )
            return False
        self._metrics.deliveries.labels("unparsable").inc()
        return True


def _job_in(body: bytes) -> str | None:
    """Return the id of the job in a delivery that is no job event otherwise, also if its end is missing."""
    try:
        event = pydantic_core.from_json(body, allow_partial=True)
    except ValueError:
        return None
    found = event.get("id") if isinstance(event, dict) else None
    return found if isinstance(found, str) and is_job_id(found) else None
