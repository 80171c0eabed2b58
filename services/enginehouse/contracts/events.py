"""The CloudEvents that parts exchange: built and read here. The envelope is fixed, the body is the engine's own."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

import pydantic_core
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from enginehouse.contracts.errors import Malformed
from enginehouse.contracts.job import JobError, RetryPolicy, Status, _Record, now

JOB_REQUESTED = "dev.enginehouse.job.requested.v1"
JOB_STARTED = "dev.enginehouse.job.started.v1"
JOB_COMPLETED = "dev.enginehouse.job.completed.v1"
JOB_PROGRESS = "dev.enginehouse.job.progress.v1"
JOB_REFUSED = "dev.enginehouse.job.refused.v1"
ENGINE_ANNOUNCED = "dev.enginehouse.engine.announced.v1"
ENGINE_STATE_EVENTS = {
    "paused": "dev.enginehouse.engine.paused.v1",
    "quarantined": "dev.enginehouse.engine.quarantined.v1",
    "active": "dev.enginehouse.engine.resumed.v1",
}
DEAD_LETTERED = "dev.enginehouse.job.deadlettered.v1"
CONTENT_TYPE = "application/cloudevents+json"
GATEWAY_SOURCE = "/gateway"

E = TypeVar("E", bound=BaseModel)


def engine_source(engine_id: str) -> str:
    """`source` of an event that an engine's runner publishes."""
    return f"/engines/{engine_id}"


class JobObjects(_Record):
    """Signed URLs of exactly this job's objects: a runner has no other access to the object store."""

    input_url: str | None = Field(None, description="GET: the input, where it is not inline.")
    input_is_json: bool = Field(True, description="Whether that object is the input; else it is passed as base64 text.")
    output_url: str | None = Field(None, description="PUT: where an output goes that is too large to be inline.")
    output_ref: str | None = Field(None, description="Key of that object, for the record.")
    max_bytes: int = Field(64 * 1024 * 1024, description="No object may be larger.")


class JobOrder(_Record):
    """`data` of a job event: what a runner needs to run one attempt."""

    input: Any = None
    parameters: dict[str, Any] | None = None
    execution_timeout_seconds: float
    retry: RetryPolicy
    retry_on_timeout: bool = False
    record_ttl_seconds: int = Field(description="TTL of the job's record: outlives every possible delivery.")
    objects: JobObjects | None = None


class JobEvent(BaseModel):
    """A job on its way to an engine."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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


class CompletionData(_Record):
    """`data` of a completion."""

    status: Status | None = Field(None, description="What the job came to, for who reads along.")
    also: tuple[str, ...] = Field(
        (),
        max_length=COMPLETION_ALSO_MAX,
        description="Ids of other jobs that came to something while it waited its turn.",
    )


class Completion(BaseModel):
    """A hint, without result, that jobs' records have changed; or that an engine has a new card."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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


class ProgressData(_Record):
    """`data` of a progress event: a line that the engine streamed while it worked."""

    kind: Literal["progress", "output", "log", "metric"]
    value: Any = None
    sequence: int = Field(ge=0)


class Progress(BaseModel):
    """What a running job's engine told on the way."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    engineid: str
    subject: str
    data: ProgressData


def progress_event(engine_id: str, job_id: str, data: ProgressData) -> bytes:
    """A runner's report of one line that the engine streamed."""
    return pydantic_core.to_json(
        {
            "specversion": "1.0",
            "id": f"{job_id}.{data.sequence}",
            "type": JOB_PROGRESS,
            "source": engine_source(engine_id),
            "subject": job_id,
            "time": now(),
            "datacontenttype": "application/json",
            "engineid": engine_id,
            "data": data,
        }
    )


class DeadLetter(_Record):
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
    """The event that hands a job to its engine, as structured CloudEvents JSON."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": job_id,
        "type": JOB_REQUESTED,
        "source": GATEWAY_SOURCE,
        "subject": job_id,
        "time": now(),
        "datacontenttype": "application/json",
        "tenantid": tenant,
        "engineid": engine_id,
        "attempt": attempt,
        "handover": hand_over,
        "expirytime": expires,
        "data": order,
    }
    if traceparent:
        event["traceparent"] = traceparent
    return pydantic_core.to_json(event, exclude_none=True)


def completion_event(
    kind: str, engine_id: str, subject: str, status: Status | None, attempt: int = 0, also: Sequence[str] = ()
) -> bytes:
    """A runner's hint to the gateway; `subject` is a job's id, or the slot of an announcement."""
    data = CompletionData(status=status, also=tuple(also)).model_dump(exclude_defaults=True)
    return pydantic_core.to_json(
        {
            "specversion": "1.0",
            "id": f"{subject}.{attempt}.{status or 'announced'}",
            "type": kind,
            "source": engine_source(engine_id),
            "subject": subject,
            "time": now(),
            "datacontenttype": "application/json",
            "engineid": engine_id,
            "data": data,
        }
    )


def dead_letter_event(engine_id: str, event_id: str, letter: DeadLetter) -> bytes:
    """What a runner publishes on the dead-letter topic when it cannot turn a delivery into a job."""
    return pydantic_core.to_json(
        {
            "specversion": "1.0",
            "id": event_id,
            "type": DEAD_LETTERED,
            "source": engine_source(engine_id),
            "time": now(),
            "datacontenttype": "application/json",
            "engineid": engine_id,
            "data": letter,
        }
    )


def read_event(kind: type[E], body: bytes) -> E:
    """Read structured CloudEvents JSON as `kind`; Malformed, saying where, if it is not one."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        raise Malformed(f"{where}: {first['msg']}") from None
