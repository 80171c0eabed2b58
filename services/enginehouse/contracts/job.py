"""A job: its states and their only transition table, a caller's request, and the record that decides."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from enginehouse.contracts.base import StrictModel, WireModel
from enginehouse.contracts.text import StorableText, storable


class Status(StrEnum):
    """Status of a job. The last five are final and never change."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        """Whether a job in this state has ended."""
        return self not in (Status.QUEUED, Status.RUNNING)


FINAL = frozenset(status for status in Status if status.is_final)


class StatusReason(StrEnum):
    """Why a job that has not ended waits."""

    WAITING_FOR_WORKER = "waiting_for_worker"
    WAITING_FOR_BROKER = "waiting_for_broker"
    ENGINE_PAUSED = "engine_paused"
    ENGINE_ASLEEP = "engine_asleep"
    RETRY_SCHEDULED = "retry_scheduled"


class Transition(NamedTuple):
    """One allowed change of state."""

    before: Status
    event: str
    after: Status


TRANSITIONS: frozenset[Transition] = frozenset(
    Transition(before, event, after)
    for befores, event, after in [
        ([Status.QUEUED], "claimed", Status.RUNNING),
        # A job shorter than the claim delay ends without ever being seen as running.
        ([Status.QUEUED, Status.RUNNING], "answered", Status.SUCCEEDED),
        ([Status.QUEUED, Status.RUNNING], "rejected", Status.FAILED),
        ([Status.QUEUED, Status.RUNNING], "retry", Status.QUEUED),
        ([Status.QUEUED, Status.RUNNING], "attempts_exhausted", Status.FAILED),
        ([Status.QUEUED, Status.RUNNING], "execution_clock_over", Status.TIMED_OUT),
        ([Status.QUEUED], "queue_clock_over", Status.EXPIRED),
        ([Status.QUEUED, Status.RUNNING], "canceled", Status.CANCELED),
        # The worker vanished: another worker takes the job over as a new attempt.
        ([Status.RUNNING], "claimed", Status.RUNNING),
    ]
    for before in befores
)
"""Every allowed change of state. Anything that is missing here cannot happen."""

_ALLOWED = {(t.before, t.after) for t in TRANSITIONS}


def may_change(before: Status, after: Status) -> bool:
    """Whether the table allows a job to go from `before` to `after`."""
    return (before, after) in _ALLOWED


class RetryPolicy(StrictModel):
    """How often a failed job is tried, and how long it waits in between (exponential, with jitter)."""

    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    initial_delay_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 1_000
    max_delay_ms: Annotated[int, Field(ge=0, le=86_400_000)] = 60_000


MAX_QUEUE_SECONDS = 7 * 86_400
MAX_EXECUTION_SECONDS = 86_400
MAX_RESULT_TTL_SECONDS = 30 * 86_400
OUTPUT_MAX_DEPTH = 150
"""Most levels of lists and objects in a result. JSON readers give up at about 200, and records and answers put some around it."""


PARAMETERS_MAX_BYTES = 64 * 1024
"""Most bytes of a job's `parameters` as JSON: they always travel in the message."""


class JobOptions(StrictModel):
    """Options of a job beside its input. None means: as the engine's card says."""

    parameters: dict[str, Any] | None = Field(
        None, description="Given to the engine beside the input. At most 64 KiB as JSON."
    )
    priority: Annotated[int, Field(ge=0, le=9, description="9 first, 0 last.")] = 4
    retry: RetryPolicy | None = Field(None, description="Default: the engine's own policy.")
    retry_on_timeout: bool = Field(False, description="Whether to try again after an attempt that ran out of time.")
    max_time_in_queue_seconds: Annotated[int, Field(ge=1, le=MAX_QUEUE_SECONDS)] | None = Field(
        None, description="Counted from acceptance. After that the job is expired."
    )
    execution_timeout_seconds: Annotated[float, Field(gt=0, le=MAX_EXECUTION_SECONDS)] | None = Field(
        None, description="Time of one attempt at the engine. After that the job is timed_out."
    )
    result_ttl_seconds: Annotated[int, Field(ge=60, le=MAX_RESULT_TTL_SECONDS)] = Field(
        86_400, description="How long the result can be read after the job ended."
    )
    webhook: Annotated[StorableText, Field(max_length=2_000, pattern=r"^https?://")] | None = Field(
        None, description="Where to POST a signed notice of this job (Standard Webhooks)."
    )
    webhook_events_filter: Annotated[tuple[Literal["start", "completed"], ...], Field(max_length=2)] = ("completed",)


class JobRequest(JobOptions):
    """Body of POST /v1/engines/{engine}/jobs."""

    input: Any = Field(None, description="The input, as the engine's card describes it under input_schema.")
    input_ref: Annotated[StorableText, Field(max_length=512)] | None = Field(
        None, description="Key of one of your uploads, instead of input."
    )


class RoutedJobRequest(JobRequest):
    """Body of POST /v1/jobs, which names the engine inside."""

    engine: Annotated[StorableText, Field(max_length=64)] | None = Field(
        None,
        description="'name' (your own engine, or a shared one if you have none of that name) or '<tenant>--<name>'. Default: standard.",
    )


class JobErrorCode(StrEnum):
    """Codes that the system gives to a job that did not succeed."""

    INVALID_INPUT = "INVALID_INPUT"
    """The engine refused the input. Trying again cannot help."""
    INPUT_UNAVAILABLE = "INPUT_UNAVAILABLE"
    """The input was sent by reference and is no longer in the object store."""
    PREDICT_ERROR = "PREDICT_ERROR"
    """The engine failed or died while it worked on the job."""
    PREDICT_TIMEOUT = "PREDICT_TIMEOUT"
    """The engine did not answer within the execution timeout."""
    MALFORMED_ANSWER = "MALFORMED_ANSWER"
    """The engine's answer is not a result."""
    OUTPUT_TOO_LARGE = "OUTPUT_TOO_LARGE"
    """The engine's result is too large to be kept."""
    UNPARSABLE = "UNPARSABLE"
    """The job's message came back from its way unreadable, so no worker could run it."""
    WORKER_LOST = "WORKER_LOST"
    """The worker vanished, and no attempts are left."""
    EXPIRED = "EXPIRED"
    """No worker began the job within its time in the queue."""
    CANCELED = "CANCELED"
    """A caller or an operator canceled the job."""
    ENGINE_REMOVED = "ENGINE_REMOVED"
    """The engine was removed before the job ended."""
    TRIAL_ENDED = "TRIAL_ENDED"
    """The job was sent to the version on trial, and there is none any more."""


class JobError(WireModel):
    """Why a job did not succeed."""

    code: str = Field(description="A `JobErrorCode`.")
    message: str
    retryable: bool = False


class Metrics(WireModel):
    """Durations in seconds."""

    queue_time: float | None = Field(None, description="From acceptance to the start of the last attempt.")
    predict_time: float | None = Field(None, description="Time of the last attempt at the engine.")


def _cut(most: int) -> AfterValidator:
    """Return what makes a text of a record fit into its column: whoever has an engine's sidecar writes records."""
    return AfterValidator(lambda text: storable(text[:most]))


ATTEMPTS_MAX = 1_000_000
"""Most attempts that a record or a dead letter may count: whoever has an engine's sidecar writes both."""
KeptMoment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), le=datetime(9000, 1, 1, tzinfo=UTC))]
"""A moment that can be kept in seconds and shown again, also with the longest time added to it."""


class JobRecord(WireModel):
    """The record that decides a job: in state `results-<id>`, under the job's id. Every write is first-write."""

    status: Status
    attempt: int = Field(0, ge=0, le=ATTEMPTS_MAX, description="Attempts begun so far.")
    worker: Annotated[str, _cut(64)] | None = Field(None, description="Worker that runs or ran the last attempt.")
    version: Annotated[str, _cut(32)] | None = None
    image: Annotated[str, _cut(300)] | None = None
    retry_at: KeptMoment | None = Field(
        None, description="Set while queued: the next attempt starts at this moment or later."
    )
    started_at: KeptMoment | None = None
    finished_at: KeptMoment | None = None
    predict_time: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    output: Any = None
    output_ref: str | None = Field(None, description="Key of the object that holds an output too large to be inline.")
    error: JobError | None = None
    dead_lettered: bool = False


class WebhookStatus(WireModel):
    """State of one webhook. It never changes the job's own status."""

    event: str
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    last_error: str | None = None


class Job(BaseModel):
    """A job as its owner sees it."""

    id: str
    engine: str
    version: str | None = None
    image: str | None = Field(
        None,
        description="The image that the engine's container was made from, by its digest, in the last attempt. "
        "None: the engine is no container.",
    )
    status: Status
    status_reason: StatusReason | None = None
    status_detail: str | None = Field(
        None, description="Why a queued job waits, if its engine is paused or does not work, and what ends that."
    )
    input: Any = None
    input_ref: str | None = None
    output: Any = None
    input_url: str | None = Field(None, description="Signed URL of an input that is not inline.")
    output_url: str | None = Field(None, description="Signed URL of an output too large to be inline.")
    error: JobError | None = None
    attempts: int = 0
    metrics: Metrics = Metrics()
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = Field(None, description="Moment from which the result is gone.")
    cancel_requested: bool = False
    dead_lettered: bool = False
    retry_of: str | None = None
    retried_as: str | None = None
    webhooks: list[WebhookStatus] = Field(default_factory=list)
    urls: dict[str, str] = Field(default_factory=dict)


class Accepted(BaseModel):
    """Answer to a submit: a promise that the job reaches a final state."""

    id: str
    engine: str
    status: Status
    urls: dict[str, str]
