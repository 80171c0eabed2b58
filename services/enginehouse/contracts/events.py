"""The events that parts exchange: their types, their data, and functions that write them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from enginehouse.contracts.base import WireModel
from enginehouse.contracts.cloud_event import GATEWAY_SOURCE, cloud_event, engine_source
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.job import JobError, RetryPolicy, Status

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
    """`data` of a job event: everything that a runner needs to run one attempt."""

    input: Any = None
    parameters: dict[str, Any] | None = None
    execution_timeout_seconds: float
    retry: RetryPolicy
    retry_on_timeout: bool = False
    record_ttl_seconds: int = Field(description="TTL of the job's record. It outlives every possible delivery.")
    weight: float = Field(1.0, gt=0, description="The tenant's weight among the tenants of a shared engine.")
    objects: JobObjects | None = None


class JobEvent(WireModel):
    """Hands a job to an engine."""

    id: str
    type: str
    source: str
    tenantid: str
    engineid: str
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
    data: JobOrder


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


class Completion(WireModel):
    """Tells the gateway, without the result, that records of jobs have changed or that an engine has a new card."""

    type: str
    engineid: str
    subject: str = Field(description="Id of the first job. For an announcement: the slot.")
    data: CompletionData = CompletionData()


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
    sequence: int = Field(ge=0)


class ProgressReport(WireModel):
    """One progress event of a running job."""

    engineid: str
    subject: str
    worker: str | None = Field(None, description="The worker that runs the attempt.")
    data: ProgressData


def progress_event(engine_id: str, job_id: str, data: ProgressData, worker: str | None = None) -> bytes:
    """Write a progress event for one line that the engine streamed."""
    return cloud_event(
        event_id=f"{job_id}.{data.sequence}",
        kind=JOB_PROGRESS,
        source=engine_source(engine_id),
        subject=job_id,
        data=data,
        extensions={"engineid": engine_id, "worker": worker},
    )


class DeadLetter(WireModel):
    """`data` of a dead letter that a runner writes."""

    reason: str = Field(description="A code: UNPARSABLE, PREDICT_ERROR, …")
    error: JobError | None = None
    attempts: int = 0
    event: str = Field("", description="The delivered event as text, without signatures and cut at 64 KiB.")
    job_id: str | None = Field(None, description="The job that the event hands over, as far as that can be read.")


def job_event(
    job_id: str,
    tenant: str,
    engine_id: str,
    attempt: int,
    expires: datetime,
    order: JobOrder,
    traceparent: str | None,
    hand_over: int = 1,
) -> bytes:
    """Write the event that hands a job to its engine."""
    return cloud_event(
        event_id=job_id,
        kind=JOB_REQUESTED,
        source=GATEWAY_SOURCE,
        subject=job_id,
        data=order,
        extensions={
            "tenantid": tenant,
            "engineid": engine_id,
            "attempt": attempt,
            "handover": hand_over,
            "expirytime": expires,
            "traceparent": traceparent,
        },
    )


def completion_event(
    kind: str, engine_id: str, subject: str, status: Status | None, attempt: int = 0, also: Sequence[str] = ()
) -> bytes:
    """Write a runner's completion. `subject` is a job id, or the slot of which it tells."""
    return cloud_event(
        event_id=f"{subject}.{attempt}.{status or 'announced'}",
        kind=kind,
        source=engine_source(engine_id),
        subject=subject,
        data=CompletionData(status=status, also=tuple(also)).model_dump(exclude_defaults=True),
        extensions={"engineid": engine_id},
    )


def dead_letter_event(engine_id: str, event_id: str, letter: DeadLetter) -> bytes:
    """Write the event that a runner puts on the dead-letter topic when it cannot turn a delivery into a job."""
    return cloud_event(
        event_id=event_id,
        kind=DEAD_LETTERED,
        source=engine_source(engine_id),
        data=letter,
        extensions={"engineid": engine_id},
    )
