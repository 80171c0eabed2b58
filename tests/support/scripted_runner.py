"""A stand-in for an engine's runner. The test chooses how it treats each delivery."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from tests.support.proofs import key_of

from enginehouse.contracts import names
from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.engine import Heartbeat, WorkerList
from enginehouse.contracts.events import (
    JOB_COMPLETED,
    JOB_STARTED,
    JOBS_PER_EVENT_MAX,
    HandedJob,
    JobEvent,
    completion_event,
)
from enginehouse.contracts.job import JobError, JobRecord, Status, may_change
from enginehouse.contracts.moments import now
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar
from enginehouse.sidecar.records import JobRecords, record_text

Answer = Callable[["ScriptedRunner", HandedJob], Awaitable[bool]]
"""Treats one delivery, and returns whether to acknowledge it."""


class ScriptedRunner:
    """Takes the deliveries of an engine's jobs, keeps them in `events`, and treats each as `answer` does.

    For the address of a version on trial, it is the runner of that version, in slot b.
    """

    def __init__(self, dapr: FakeDapr, address: str, worker: str = "worker-1") -> None:
        self.engine_id = names.engine_of(address)
        self.slot: names.Slot = "b" if names.is_trial(address) else "a"
        self.worker = worker
        self.answer: Answer = succeed
        self.brings_records = True
        """Whether final records come along with its completions."""
        self.events: list[HandedJob] = []
        self.engines_named = set[str]()
        """The engines that the deliveries named."""
        self.expired: list[HandedJob] = []
        """Deliveries past their time, which it acknowledges as a runner does."""
        self.sidecar = FakeSidecar(dapr, names.app_id(self.engine_id, self.slot))
        self.records = JobRecords(self.sidecar, self.engine_id)
        dapr.subscribe(names.job_topic(address), self.deliver)

    async def deliver(self, body: bytes) -> bool:
        """Take a delivery. True acknowledges it."""
        event = read_event(JobEvent, body)
        self.engines_named.add(event.engineid)
        answers = [await self._take(job) for job in event.jobs]
        return all(answers)

    async def _take(self, job: HandedJob) -> bool:
        if job.expirytime < now():
            self.expired.append(job)
            return True
        self.events.append(job)
        return await self.answer(self, job)

    def inputs(self) -> list[Any]:
        """Return the inputs of all deliveries, in order."""
        return [event.data.input for event in self.events]

    async def write(self, event: HandedJob, status: Status, **fields: Any) -> JobRecord:
        """Write the job's record if the table of transitions allows it, and return the record that holds then."""

        def decide(present: JobRecord | None) -> JobRecord | None:
            if present and (present.attempt > event.attempt or not may_change(present.status, status)):
                return None
            return JobRecord(status=status, attempt=event.attempt, worker=self.worker, **fields)

        return await self.records.change(event.id, event.data.record_ttl_seconds, decide)

    async def tell(
        self, kind: str, job_id: str, status: Status, attempt: int, records: Mapping[str, str] | None = None
    ) -> None:
        """Publish a completion, which brings these records along."""
        key = key_of(self.engine_id)
        event = completion_event(key, self.engine_id, kind, job_id, status, attempt, records=records)
        await self.sidecar.publish(names.jobs_component(self.engine_id), names.COMPLETIONS_TOPIC, event)

    async def end(
        self, event: HandedJob, status: Status = Status.SUCCEEDED, *, tell: bool = True, **fields: Any
    ) -> None:
        """Write how an attempt ended, and publish a completion unless `tell` is False."""
        if status.is_final:
            fields = {"finished_at": now(), "predict_time": 0.01, **fields}
        held = await self.write(event, status, started_at=now(), **fields)
        if tell:
            along = {event.id: record_text(held)} if self.brings_records and held.status.is_final else None
            await self.tell(JOB_COMPLETED, event.id, held.status, held.attempt, along)

    async def claim(self, event: HandedJob) -> None:
        """Write that the job runs, and publish that it started."""
        await self.write(event, Status.RUNNING, started_at=now())
        await self.tell(JOB_STARTED, event.id, Status.RUNNING, event.attempt)

    async def beat(
        self,
        *,
        in_hand: Iterable[str] = (),
        idle_for: float | None = None,
        healthy: bool = True,
        asleep: bool = False,
        concurrency: int = 2,
        subscribed: bool = True,
        on_trial: bool = False,
        version: str = "v1",
        beside: Iterable[str] = (),
        warning: str | None = None,
        problem: str | None = None,
        jobs_per_event: int = JOBS_PER_EVENT_MAX,
    ) -> None:
        """Write a heartbeat of a worker that has been idle for `idle_for` seconds; None: it is busy.

        The list of workers then names it, and those `beside` it.
        """
        beat = Heartbeat(
            worker=self.worker,
            slot=self.slot,
            version=version,
            concurrency=concurrency,
            in_hand=list(in_hand),
            idle_since=None if idle_for is None else now() - timedelta(seconds=idle_for),
            healthy=healthy,
            asleep=asleep,
            subscribed=subscribed,
            on_trial=on_trial,
            warning=warning,
            problem=problem,
            jobs_per_event=jobs_per_event,
            at=now(),
        )
        store = names.results_component(self.engine_id)
        workers = WorkerList(workers=[self.worker, *beside])
        await self.sidecar.put(store, names.WORKERS_KEY, workers.model_dump_json().encode())
        await self.sidecar.put(store, names.worker_key(self.worker), beat.model_dump_json().encode(), 15)


async def succeed(runner: ScriptedRunner, event: HandedJob) -> bool:
    """Answer the input."""
    await runner.end(event, output={"echo": event.data.input})
    return True


async def succeed_untold(runner: ScriptedRunner, event: HandedJob) -> bool:
    """Answer the input, and publish no completion."""
    await runner.end(event, output={"echo": event.data.input}, tell=False)
    return True


async def fail(runner: ScriptedRunner, event: HandedJob) -> bool:
    """Fail for good, as a dead letter."""
    error = JobError(code="PREDICT_ERROR", message="it broke", retryable=True)
    await runner.end(event, Status.FAILED, error=error, dead_lettered=True)
    return True


async def retry(runner: ScriptedRunner, event: HandedJob) -> bool:
    """Fail. The job is tried again at once, or has failed for good when no attempts are left."""
    if event.attempt >= event.data.retry.max_attempts:
        return await fail(runner, event)
    error = JobError(code="PREDICT_ERROR", message="it broke", retryable=True)
    await runner.end(event, Status.QUEUED, error=error, retry_at=now())
    return True


async def never(runner: ScriptedRunner, event: HandedJob) -> bool:
    """Begin the job, and never end it."""
    await runner.claim(event)
    return True


async def lose(runner: ScriptedRunner, event: HandedJob) -> bool:
    """Do nothing with the delivery, as if the broker had lost it."""
    return True
