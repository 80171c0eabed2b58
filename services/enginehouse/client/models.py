"""Types of the client's arguments and results, beside the types of the contracts."""

from typing import Any, Literal, TypedDict

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.job import Accepted, Job, JobError, RetryPolicy


class SubmitOptions(TypedDict, total=False):
    """Options of a job beside its input: the fields of `contracts.job.JobOptions`, and `input_ref`."""

    parameters: dict[str, Any]
    priority: int
    retry: RetryPolicy | dict[str, int]
    retry_on_timeout: bool
    max_time_in_queue_seconds: int
    execution_timeout_seconds: float
    result_ttl_seconds: int
    webhook: str
    webhook_events_filter: list[Literal["start", "completed"]]
    input_ref: str


class BatchJob(SubmitOptions, total=False):
    """One job of a batch: all arguments of `submit` in one."""

    engine: str
    input: Any


class _Answer(BaseModel):
    """Data of a server that may be newer. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ReplicaAnswer(_Answer):
    """What one replica answered to `engines_info` or `update_engines`. Without a `status` it gave no answer."""

    replica: str
    status: int | None = None
    body: Any = None
    problem: str | None = None


class EngineAnswer(_Answer):
    """What the replicas of one engine answered, and which of its workers.

    `code` and `problem` say why not every worker has answered.
    """

    engine: str
    version: str | None = None
    replicas: list[ReplicaAnswer] = Field(default_factory=list)
    answered: list[str] = Field(default_factory=list)
    unanswered: list[str] = Field(default_factory=list)
    code: str | None = None
    problem: str | None = None


class EngineAnswers(_Answer):
    """An answer for each engine that was selected."""

    engines: list[EngineAnswer]


class JobCounts(_Answer):
    """Number of an engine's jobs: waiting, running, and ended so far."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0


class WorkerCounts(_Answer):
    """Number of an engine's live workers."""

    idle: int = 0
    running: int = 0


class Queue(_Answer):
    """An engine's jobs and workers."""

    jobs: JobCounts = JobCounts()
    workers: WorkerCounts = WorkerCounts()


class EngineInfo(_Answer):
    """An engine that the caller may use."""

    id: str
    version: str | None = None
    description: str = ""
    state: str = Field(description="active, paused, quarantined or retired.")
    reason: str | None = None
    warning: str | None = Field(None, description="What slows its jobs.")
    health: str = "unknown"
    queue: Queue | None = None
    card: EngineCard | None = Field(None, description="Only in the answer for one engine.")
    misbehaviour: dict[str, int] = Field(
        default_factory=dict, description="What it was seen doing lately that quarantines it in the end, and how often."
    )


class Page(_Answer):
    """A part of a list."""

    next_cursor: str | None = None
    """Leads to the next part; None: this is the last."""


class EnginePage(Page):
    """Answer of GET /v1/engines."""

    engines: list[EngineInfo]


class JobNews(_Answer):
    """One event of a job."""

    kind: str = Field(description="start, progress, output, log, metric, and completed as the last.")
    data: Any = Field(None, description="Content of the event. For `completed`: the job.")


class JobPage(Page):
    """Answer of GET /v1/jobs."""

    jobs: list[Job]


class DeadLetterInfo(_Answer):
    """A job or event that was given up."""

    id: str = Field(description="The id of the job that was given up, if there is one.")
    engine: str | None = None
    job_id: str | None = Field(None, description="None: the event never became a job.")
    reason: str = Field(description="A code: PREDICT_ERROR, WORKER_LOST, UNPARSABLE, …")
    attempts: int = 0
    error: JobError | None = Field(None, description="Error of the last attempt.")
    event: str | None = Field(None, description="The delivered event. Only in the answer for one dead letter.")
    created_at: AwareDatetime
    redriven_as: str | None = None


class DeadLetterPage(Page):
    """Answer of GET /v1/dead-letters."""

    dead_letters: list[DeadLetterInfo]


class AuditInfo(_Answer):
    """A call, an administrative act, or the end of a job. GET /v1/audit describes the fields."""

    writer: str
    number: int
    at: AwareDatetime = Field(description="When it was over.")
    action: str
    outcome: str
    by: str | None = None
    key: str | None = None
    user: str | None = None
    tenant: str | None = None
    engine: str | None = None
    version: str | None = None
    job: str | None = None
    status: int | None = None
    ms: float | None = Field(None, description="How long it took, in milliseconds.")
    request_id: str | None = None
    times: int = 1
    detail: str | None = None


class AuditPage(Page):
    """Answer of GET /v1/audit."""

    entries: list[AuditInfo]


class BatchRefusal(_Answer):
    """Answer for a job of a batch that was refused."""

    problem: dict[str, Any]


class BatchAnswer(_Answer):
    """Answer of POST /v1/jobs/batch: one entry per job, in order."""

    jobs: list[Accepted | BatchRefusal]


class Upload(_Answer):
    """Answer of POST /v1/uploads: a URL to PUT the object to, and the key that names it."""

    key: str
    url: str
