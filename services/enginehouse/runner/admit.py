"""Whether a delivered job is to be run here and now, told from its record and the heartbeat of who holds it."""

from dataclasses import dataclass

from pydantic import ValidationError

from enginehouse.contracts.engine import Heartbeat
from enginehouse.contracts.events import JobEvent
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.names import results_component, worker_key
from enginehouse.runner.outcome import Attempt, WorkerLost
from enginehouse.sidecar.base import Sidecar


@dataclass(frozen=True, slots=True)
class Run:
    """Run it, as this attempt; over the record of a vanished worker if there is one."""

    number: int
    takes_over: JobRecord | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """Acknowledge it unrun."""

    reason: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Its worker vanished in the last attempt allowed."""

    record: JobRecord


Verdict = Run | Skip | Exhausted


class Admission:
    """Judges deliveries of one engine's jobs for one worker."""

    def __init__(self, sidecar: Sidecar, engine_id: str, worker: str) -> None:
        self._sidecar = sidecar
        self._store = results_component(engine_id)
        self._worker = worker

    async def judge(self, job_id: str, attempt: int, max_attempts: int, record: JobRecord | None) -> Verdict:
        """What to do with a delivery of attempt `attempt`, `record` being what holds. Unavailable: cannot be told now."""
        if record is None:
            return Run(attempt)
        if record.status.is_final:
            return Skip(f"the job is {record.status}")
        if record.status is Status.QUEUED:
            stale = record.attempt >= attempt
            return Skip(f"attempt {record.attempt} was made already") if stale else Run(attempt)
        if await self._still_runs(job_id, record):
            return Skip(f"worker {record.worker} runs it")
        number = max(attempt, record.attempt + 1)
        return Run(number, takes_over=record) if number <= max_attempts else Exhausted(record)

    async def _still_runs(self, job_id: str, record: JobRecord) -> bool:
        """Whether the worker in the record lives and has the job. Asked only of jobs that are not in our own hand."""
        if record.worker is None or record.worker == self._worker:
            return False
        item = await self._sidecar.read(self._store, worker_key(record.worker))
        if item is None:
            return False
        try:
            beat = Heartbeat.model_validate_json(item.value)
        except ValidationError:
            return False
        # A job taken since the last beat is not in it yet; one taken before and not in it was another process's.
        return job_id in beat.in_hand or record.started_at is None or record.started_at >= beat.at


def lost_attempt(event: JobEvent, record: JobRecord) -> tuple[Attempt, WorkerLost]:
    """The last attempt of a vanished worker, as what came of it."""
    attempt = Attempt(
        job_id=event.id,
        number=record.attempt,
        worker=record.worker or "",
        version=record.version or "",
        order=event.data,
        takes_over=record,
        record_seen=True,
    )
    if record.started_at is not None:
        attempt.started_at = record.started_at
    return attempt, WorkerLost(record.worker)
