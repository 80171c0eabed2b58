"""The events that parts exchange: their types, their data, and functions that write them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from enginehouse.contracts.base import WireModel
from enginehouse.contracts.cloud_event import GATEWAY_SOURCE, cloud_event, engine_source, with_json
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.job import ATTEMPTS_MAX, JobError, RetryPolicy, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.proofs import EngineKey, proof, proves

JOB_REQUESTED = "dev.enginehouse.job.requested.v1"
JOB_STARTED = "dev.enginehouse.job.started.v1"
JOB_COMPLETED = "dev.enginehouse.job.completed.v1"
JOB_PROGRESS = "dev.enginehouse.job.progress.v1"
JOB_REFUSED = "dev.enginehouse.job.refused.v1"
ENGINE_ANNOUNCED = "dev.enginehouse.engine.announced.v1"
WORKER_LEFT = "dev.enginehouse.worker.left.v1"
"""A worker takes no more jobs: what its sidecar had fetched and not delivered stays there until the broker's clock ends."""
ENGINE_STATE_EVENTS: dict[EngineState, str] = {
    EngineState.PAUSED: "dev.enginehouse.engine.paused.v1",
    EngineState.QUARANTINED: "dev.enginehouse.engine.quarantined.v1",
    EngineState.ACTIVE: "dev.enginehouse.engine.resumed.v1",
}
DEAD_LETTERED = "dev.enginehouse.job.deadlettered.v1"


class RequestingEvent(WireModel):
    """Names the upstream event that asked for a job: `event` in the data of its answer, for its sender to recognise it.

    In the answer to an event that cannot be read, what is unknown is missing.
    """

    id: str | None = None
    source: str | None = None
    type: str | None = None


class JobObjects(WireModel):
    """Signed URLs of the objects of one job. A runner has no other access to the object store."""

    input_url: str | None = Field(None, description="GET: the input, if it is not inline.")
    input_is_json: bool = Field(True, description="True: the object is JSON. False: pass it as base64 text.")
    output_url: str | None = Field(None, description="PUT: place for an output that is too large to be inline.")
    output_ref: str | None = Field(None, description="Key of that object, for the record.")
    max_bytes: int = Field(64 * 1024 * 1024, description="Largest size of an object.")
    expires_at: float | None = Field(None, description="End of the URLs' validity, in seconds since the epoch.")


class JobOrder(WireModel):
    """Everything that a runner needs to run one attempt."""

    input: Any = None
    parameters: dict[str, Any] | None = None
    execution_timeout_seconds: float
    retry: RetryPolicy
    retry_on_timeout: bool = False
    record_ttl_seconds: int = Field(description="TTL of the job's record. It outlives every possible delivery.")
    weight: float = Field(1.0, gt=0, description="The tenant's weight among the tenants of a shared engine.")
    objects: JobObjects | None = None


class HandedJob(WireModel):
    """One job that is handed over."""

    id: str
    tenantid: str
    attempt: int = Field(ge=1, description="Number of this attempt, from 1.")
    handover: int = Field(
        1, description="How often the job was published so far. An earlier delivery may still arrive."
    )
    expirytime: AwareDatetime = Field(
        description="A delivery after this moment is acknowledged without running the job."
    )
    time: AwareDatetime | None = Field(
        None, description="When the job was published. An old delivery may be a duplicate."
    )
    traceparent: str | None = None
    proof: str | None = Field(None, description="Shows that the gateway has published it for this engine.")
    data: JobOrder

    def is_proven(self, key: EngineKey) -> bool:
        """Return whether its proof is that of a gateway, for the engine whose key this is."""
        said = _order_said(self.id, self.tenantid, self.attempt, self.handover, self.time, self.expirytime)
        return proves(self.proof, key, *said)


JOBS_PER_EVENT_MAX = 64
"""Most jobs that one event may hand over."""


class HandOver(JobOrder):
    """`data` of a job event: the first job's order, and the other jobs that the event hands over."""

    also: tuple[HandedJob, ...] = Field(
        (),
        max_length=JOBS_PER_EVENT_MAX - 1,
        description="Only for a worker that takes so many, as its heartbeat says. Each job ends by itself.",
    )


class JobEvent(HandedJob):
    """Hands jobs to an engine: the event is the first of them."""

    type: str
    source: str
    engineid: str
    data: HandOver

    @property
    def jobs(self) -> tuple[HandedJob, ...]:
        """All jobs that it hands over, in their order."""
        return (self, *self.data.also)


class _Proven(WireModel):
    """What the proof of a job covers, and the proof; and what may show that the event hands over others as well."""

    id: str
    tenantid: str
    attempt: int
    handover: int
    time: AwareDatetime
    expirytime: AwareDatetime
    proof: str
    data: Any = None


def proven_job(event: Any, key: EngineKey) -> str | None:
    """Return the id of the job that a gateway has handed to the engine whose key this is, by an event that is unreadable otherwise.

    None if nothing proves it, or if the event hands over several: any of them may be the unreadable one, and each comes
    again alone. `event`: what the event is as JSON, or as much of it as there is.
    """
    try:
        said = _Proven.model_validate(event)
    except ValidationError:
        return None
    if isinstance(said.data, dict) and said.data.get("also"):
        return None
    order = _order_said(said.id, said.tenantid, said.attempt, said.handover, said.time, said.expirytime)
    return said.id if proves(said.proof, key, *order) else None


def _order_said(
    job_id: str, tenant: str, attempt: int, hand_over: int, time: datetime | None, expires: datetime
) -> tuple[str | int, ...]:
    """Return what the proof of a job event covers: which attempt at which job, and until when.

    Its data are not covered: they change their form on the way through Dapr.
    """
    moments = [0 if moment is None else round(moment.timestamp() * 1_000) for moment in (time, expires)]
    return (JOB_REQUESTED, job_id, tenant, attempt, hand_over, *moments)


RECORD_ALONG_MAX_CHARS = 8 * 1024
"""A longer record does not come along with its completion."""
COMPLETION_ALSO_MAX = 63
"""Most jobs that one completion may name beside its first."""


class CompletionData(WireModel):
    """`data` of a completion."""

    status: Status | None = Field(
        None, description="New status of the first job, for readers of the topic. The gateway reads the record."
    )
    also: tuple[str, ...] = Field(
        (),
        max_length=COMPLETION_ALSO_MAX,
        description="Ids of other jobs whose records changed while this completion waited to be sent.",
    )
    records: dict[str, str] = Field(
        default_factory=dict,
        max_length=COMPLETION_ALSO_MAX + 1,
        description="Final records of these jobs, by id, as JSON text; of some or all of them.",
    )
    records_proof: str | None = Field(
        None, description="Shows that a runner of the engine has published these records."
    )


class Completion(WireModel):
    """Tells the gateway that records of jobs have changed or that an engine has a new card.

    A small final record comes along, and need not be read. It was written before, and never changes. Such records have a
    proof of their own, so that a gateway that does not know them takes the rest.
    """

    id: str = ""
    type: str
    engineid: str
    subject: str = Field(description="Id of the first job. For an announcement: the slot.")
    proof: str | None = Field(None, description="Shows that a runner of the engine has published it.")
    data: CompletionData = CompletionData()

    def is_proven(self, key: EngineKey) -> bool:
        """Return whether its proof is that of a runner of the engine whose key this is."""
        return proves(self.proof, key, *_runner_said(self.type, self.id, self.subject))

    def proven_records(self, key: EngineKey) -> Mapping[str, str]:
        """Return the records that come along, or none if a runner of the engine whose key this is has not written them."""
        records = self.data.records
        return records if records and proves(self.data.records_proof, key, *_records_said(self.id, records)) else {}


def _runner_said(kind: str, event_id: str, subject: str | None) -> tuple[str, str, str]:
    return (kind, event_id, subject or "")


def _records_said(event_id: str, records: Mapping[str, str]) -> list[str]:
    """Return what the proof of records covers. They travel as text, which Dapr leaves as it is."""
    said = [JOB_COMPLETED, "records", event_id]
    for job_id, record in sorted(records.items()):
        said += [job_id, record]
    return said


PROGRESS_KINDS = ("progress", "output", "log", "metric")
PROGRESS_EVENTS_MAX = 1_000
"""Most progress events of one attempt. A runner drops the rest."""
PROGRESS_EVENT_MAX_BYTES = 8 * 1024
_PROGRESS_STEP = 1_000_000


def progress_sequence(attempt: int, number: int) -> int:
    """Return the place of an attempt's `number`th event among all events of its job. Number 0 is the start."""
    return attempt * _PROGRESS_STEP + number


def progress_place(sequence: int) -> tuple[int, int]:
    """Return the attempt and the number from which `progress_sequence` made `sequence`."""
    return divmod(sequence, _PROGRESS_STEP)


class ProgressData(WireModel):
    """`data` of a progress event: one line that the engine streamed while it worked."""

    kind: Literal["progress", "output", "log", "metric"]
    value: Any = None
    sequence: int = Field(ge=0, lt=(ATTEMPTS_MAX + 1) * _PROGRESS_STEP)


class ProgressReport(WireModel):
    """One progress event of a running job."""

    id: str
    engineid: str
    subject: str
    worker: str | None = Field(None, description="The worker that runs the attempt.")
    data: ProgressData


def progress_id(job_id: str, sequence: int) -> str:
    """Return the id of a progress event, which its proof covers."""
    return f"{job_id}.{sequence}"


def progress_event(key: EngineKey, engine_id: str, job_id: str, data: ProgressData, worker: str | None = None) -> bytes:
    """Write a progress event for one line that the engine streamed."""
    event_id = progress_id(job_id, data.sequence)
    return _runners_event(key, engine_id, JOB_PROGRESS, event_id, job_id, data, {"worker": worker})


def _runners_event(
    key: EngineKey,
    engine_id: str,
    kind: str,
    event_id: str,
    subject: str | None,
    data: Any,
    extensions: Mapping[str, Any] | None = None,
) -> bytes:
    """Write an event of an engine's runner, with its proof."""
    shown = proof(key, *_runner_said(kind, event_id, subject))
    return cloud_event(
        event_id=event_id,
        kind=kind,
        source=engine_source(engine_id),
        subject=subject,
        data=data,
        extensions={"engineid": engine_id, "proof": shown, **(extensions or {})},
    )


class DeadLetter(WireModel):
    """`data` of a dead letter that a runner writes."""

    reason: str = Field(description="A code: UNPARSABLE, PREDICT_ERROR, …")
    error: JobError | None = None
    attempts: int = Field(0, ge=0, le=ATTEMPTS_MAX)
    event: str = Field("", description="The delivered event as text, without signatures and cut at 64 KiB.")
    job_id: str | None = Field(None, description="The job that the event hands over, if it shows that.")


def dead_letter_is_proven(shown: object, key: EngineKey, event_id: str, job_id: str | None) -> bool:
    """Return whether a runner of the engine whose key this is has written the dead letter `event_id` of this job, or of none."""
    return proves(shown, key, *_runner_said(DEAD_LETTERED, event_id, job_id))


@dataclass(frozen=True, slots=True)
class Order:
    """A job to hand over, with its order as JSON text."""

    job_id: str
    tenant: str
    attempt: int
    expires: datetime
    data: bytes
    traceparent: str | None = None
    hand_over: int = 1


def order_text(order: JobOrder, input_json: bytes | None = None) -> bytes:
    """Write an order as JSON; with `input_json`, a JSON text, as its input."""
    text = order.model_dump_json(exclude_none=True).encode()
    return text if input_json is None else b'{"input":%b,%b' % (input_json, text[1:])


def job_event(key: EngineKey | None, engine_id: str, orders: Sequence[Order], at: datetime | None = None) -> bytes:
    """Write the event that hands jobs to their engine, published `at` a moment or now: JOBS_PER_EVENT_MAX at most.

    Without `key`, no runner takes it: it is there to be looked at.
    """
    published = at or now()
    first, *others = orders
    data = first.data
    if others:
        also = b",".join(_handed(key, order, published) for order in others)
        data = b'%b,"also":[%b]}' % (data[:-1], also)
    return cloud_event(
        event_id=first.job_id,
        kind=JOB_REQUESTED,
        source=GATEWAY_SOURCE,
        subject=first.job_id,
        data=data,
        extensions={"engineid": engine_id, **_said_of(key, first, published)},
        at=published,
    )


def _handed(key: EngineKey | None, order: Order, published: datetime) -> bytes:
    said = {"id": order.job_id, "time": published, **_said_of(key, order, published)}
    return with_json(said, "data", order.data)


def _said_of(key: EngineKey | None, order: Order, published: datetime) -> dict[str, Any]:
    """Return what an event says about a job beside its order, and the proof."""
    said = _order_said(order.job_id, order.tenant, order.attempt, order.hand_over, published, order.expires)
    return {
        "tenantid": order.tenant,
        "attempt": order.attempt,
        "handover": order.hand_over,
        "expirytime": order.expires,
        "traceparent": order.traceparent,
        "proof": key and proof(key, *said),
    }


def completion_event(
    key: EngineKey,
    engine_id: str,
    kind: str,
    subject: str,
    status: Status | None,
    attempt: int = 0,
    also: Sequence[str] = (),
    records: Mapping[str, str] | None = None,
) -> bytes:
    """Write a runner's completion. `subject` is a job id, or the slot of which it tells.

    `records`: final records that stand in the store, by job id, as JSON text.
    """
    event_id = f"{subject}.{attempt}.{status or 'announced'}"
    data = CompletionData(
        status=status,
        also=tuple(also),
        records=dict(records or {}),
        records_proof=proof(key, *_records_said(event_id, records)) if records else None,
    )
    return _runners_event(key, engine_id, kind, event_id, subject, data.model_dump(exclude_defaults=True))


def dead_letter_event(key: EngineKey, engine_id: str, event_id: str, letter: DeadLetter) -> bytes:
    """Write the event that a runner puts on the dead-letter topic when it cannot turn a delivery into a job."""
    return _runners_event(key, engine_id, DEAD_LETTERED, event_id, letter.job_id, letter)
