"""The events that parts exchange: their types, their data, and how each is made."""

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
ENGINE_STATE_EVENTS: dict[EngineState, str] = {
    EngineState.PAUSED: "dev.enginehouse.engine.paused.v1",
    EngineState.QUARANTINED: "dev.enginehouse.engine.quarantined.v1",
    EngineState.ACTIVE: "dev.enginehouse.engine.resumed.v1",
}
DEAD_LETTERED = "dev.enginehouse.job.deadlettered.v1"


class JobObjects(WireModel):
    """Signed URLs of exactly this job's objects: a runner has no other access to the object store."""

    input_url: str | None = Field(None, description="GET: the input, where it is not inline.")
    input_is_json: bool = Field(True, description="Whether that object is the input; else it is passed as base64 text.")
    output_url: str | None = Field(None, description="PUT: where an output goes that is too large to be inline.")
    output_ref: str | None = Field(None, description="Key of that object, for the record.")
    max_bytes: int = Field(64 * 1024 * 1024, description="No object may be larger.")


class JobOrder(WireModel):
    """`data` of a job event: what a runner needs to run one attempt."""

    input: Any = None
    parameters: dict[str, Any] | None = None
    execution_timeout_seconds: float
    retry: RetryPolicy
    retry_on_timeout: bool = False
    record_ttl_seconds: int = Field(description="TTL of the job's record: outlives every possible delivery.")
    objects: JobObjects | None = None


class JobEvent(WireModel):
    """A job on its way to an engine."""

    id: str
    type: str
    source: str
    tenantid: str
    engineid: str
    attempt: int = Field(ge=1, description="Which attempt this hand-over is, counted from 1.")
    handover: int = Field(1, description="How often the job was published so far: an earlier one may be about, too.")
    expirytime: AwareDatetime = Field(description="A delivery after this moment is acknowledged and not run.")
    time: AwareDatetime | None = Field(None, description="When it was published: an old delivery may be a second one.")
    traceparent: str | None = None
    data: JobOrder


COMPLETION_ALSO_MAX = 63
"""Jobs that one completion may name beside its first."""


class CompletionData(WireModel):
    """`data` of a completion."""

    status: Status | None = Field(None, description="What the job came to, for who reads along.")
    also: tuple[str, ...] = Field(
        (),
        max_length=COMPLETION_ALSO_MAX,
        description="Ids of other jobs that came to something while it waited its turn.",
    )


class Completion(WireModel):
    """A hint, without result, that jobs' records have changed; or that an engine has a new card."""

    type: str
    engineid: str
    subject: str = Field(description="The first job's id; for an announcement, the slot.")
    data: CompletionData = CompletionData()


PROGRESS_KINDS = ("progress", "output", "log", "metric")
PROGRESS_EVENTS_MAX = 1_000
"""How many of these one attempt may tell; a runner drops the rest."""
PROGRESS_EVENT_MAX_BYTES = 8 * 1024
_PROGRESS_STEP = 1_000_000


def progress_sequence(attempt: int, number: int) -> int:
    """Where an attempt's `number`th event stands among all events of its job; number 0 is its start."""
    return attempt * _PROGRESS_STEP + number


def progress_place(sequence: int) -> tuple[int, int]:
    """The attempt and the number that `progress_sequence` made `sequence` of."""
    return divmod(sequence, _PROGRESS_STEP)


class ProgressData(WireModel):
    """`data` of a progress event: a line that the engine streamed while it worked."""

    kind: Literal["progress", "output", "log", "metric"]
    value: Any = None
    sequence: int = Field(ge=0)


class ProgressReport(WireModel):
    """What a running job's engine told on the way."""

    engineid: str
    subject: str
    data: ProgressData


def progress_event(engine_id: str, job_id: str, data: ProgressData) -> bytes:
    """Make a runner's report of one line that the engine streamed."""
    return cloud_event(
        event_id=f"{job_id}.{data.sequence}",
        kind=JOB_PROGRESS,
        source=engine_source(engine_id),
        subject=job_id,
        data=data,
        extensions={"engineid": engine_id},
    )


class DeadLetter(WireModel):
    """`data` of a dead letter that a runner writes."""

    reason: str = Field(description="A code: UNPARSABLE, PREDICT_ERROR, …")
    error: JobError | None = None
    attempts: int = 0
    event: str = Field("", description="What was delivered, as text, cut at 64 KiB.")


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
    """Make the event that hands a job to its engine."""
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
    """Make a runner's hint to the gateway; `subject` is a job's id, or the slot of an announcement."""
    return cloud_event(
        event_id=f"{subject}.{attempt}.{status or 'announced'}",
        kind=kind,
        source=engine_source(engine_id),
        subject=subject,
        data=CompletionData(status=status, also=tuple(also)).model_dump(exclude_defaults=True),
        extensions={"engineid": engine_id},
    )


def dead_letter_event(engine_id: str, event_id: str, letter: DeadLetter) -> bytes:
    """Make what a runner publishes on the dead-letter topic when it cannot turn a delivery into a job."""
    return cloud_event(
        event_id=event_id,
        kind=DEAD_LETTERED,
        source=engine_source(engine_id),
        data=letter,
        extensions={"engineid": engine_id},
    )
