"""Judges whether a delivered job is run here and now, by its record and the heartbeat of the worker that holds it."""

from dataclasses import dataclass
from datetime import timedelta

from pydantic import ValidationError

from enginehouse.contracts.engine import Heartbeat
from enginehouse.contracts.events import HandedJob, JobOrder
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import results_component, worker_key
from enginehouse.runner.attempt import Attempt, Execution
from enginehouse.runner.outcome import Outcome, WorkerLost
from enginehouse.runner.pace import Pace
from enginehouse.runner.recent_ends import RecentEnds
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.records import JobRecords


@dataclass(frozen=True, slots=True)
class Run:
    """Run the job, as attempt `number`."""

    number: int
    takes_over: JobRecord | None = None
    """The record of a vanished worker, which the attempt may replace."""
    record_seen: bool = False
    """Whether the job is known to have a record."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Acknowledge the delivery and do not run the job."""

    reason: str


@dataclass(frozen=True, slots=True)
class Settle:
    """Settle the attempt: it has this outcome."""

    execution: Execution
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Write again how the job ended: the store has forgotten it."""

    ended: JobRecord


Ending = Acknowledge | Settle | Rewrite
"""How a delivery ends."""
Judgement = Run | Ending
"""What to do with a delivery."""
FIRST_RUN = Run(number=1)
"""The judgement of a fresh delivery."""


class Admission:
    """Judges deliveries of one engine's jobs for one worker."""

    def __init__(
        self, sidecar: Sidecar, records: JobRecords, recent_ends: RecentEnds, pace: Pace, *, engine_id: str, worker: str
    ) -> None:
        self._sidecar = sidecar
        self._records = records
        self._recent_ends = recent_ends
        self._fresh = timedelta(seconds=pace.fresh_seconds)
        self._store = results_component(engine_id)
        self._worker = worker
        self._began_at = now()

    def is_fresh(self, event: HandedJob) -> bool:
        """Return whether this can only be the first delivery of a first attempt: it runs without its record being read."""
        return (
            event.attempt == 1
            and event.handover == 1
            and event.time is not None
            and abs(now() - event.time) < self._fresh
            # An event published before this process began may have been run by the process before it.
            and event.time > self._began_at
            and event.id not in self._recent_ends
        )

    async def look(self, event: HandedJob) -> Judgement:
        """Read the job's record and judge the delivery. Raise Unavailable if it cannot be judged now."""
        stored = await self._records.read(event.id)
        record = stored.record if stored else None
        ended = self._recent_ends.get(event.id)
        if ended is not None and not (record and record.status.is_final):
            return Rewrite(ended)
        if (
            record
            and record.status is Status.QUEUED
            and record.retry_at
            and event.time
            and record.retry_at > event.time
        ):
            # The event had other jobs as well, one of which made it come again.
            return Acknowledge("it was handed back after this event, and is handed over again")
        return await self.judge(job_id=event.id, number=event.attempt, order=event.data, record=record)

    async def look_again(self, event: HandedJob) -> Judgement:
        """Judge a delivery once more after some time: its job may have been canceled, or be past its own time."""
        if event.expirytime <= now():
            return Acknowledge("its time in the queue was over before it could run")
        return await self.look(event)

    async def judge(
        self, *, job_id: str, number: int, order: JobOrder, record: JobRecord | None
    ) -> Run | Acknowledge | Settle:
        """Judge attempt `number` by the job's present record. Raise Unavailable if it cannot be judged now."""
        if record is None:
            return Run(number)
        if record.status.is_final:
            return Acknowledge(f"the job is {record.status}")
        if record.status is Status.QUEUED:
            if record.attempt >= number:
                return Acknowledge(f"attempt {record.attempt} was made already")
            return Run(number, record_seen=True)
        if await self._still_runs(job_id, record):
            return Acknowledge(f"worker {record.worker} runs it")
        number = max(number, record.attempt + 1)
        if number > order.retry.max_attempts:
            return _lost_last_attempt(job_id, order, record)
        return Run(number, takes_over=record, record_seen=True)

    async def _still_runs(self, job_id: str, record: JobRecord) -> bool:
        """Return whether the worker in the record lives and has the job. Asked only about jobs not in hand here."""
        if record.worker is None or record.worker == self._worker:
            return False
        item = await self._sidecar.read(self._store, worker_key(record.worker))
        if item is None:
            return False
        try:
            beat = Heartbeat.model_validate_json(item.value)
        except ValidationError:
            return False
        # A job taken after the last heartbeat cannot be in it yet. A job taken before it, and missing in it, belonged to a
        # former process of the same name.
        return job_id in beat.in_hand or record.started_at is None or record.started_at >= beat.at


def _lost_last_attempt(job_id: str, order: JobOrder, record: JobRecord) -> Settle:
    """Settle the last attempt allowed, whose worker vanished."""
    attempt = Attempt(
        job_id=job_id,
        number=record.attempt,
        worker=record.worker or "",
        version=record.version or "",
        image=record.image,
        order=order,
        started_at=record.started_at or now(),
        takes_over=record,
    )
    return Settle(Execution(attempt, record_seen=True), WorkerLost(record.worker))
