"""What the client takes and gives beside the contracts' own types."""

from typing import Any, Literal, TypedDict

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.job import Accepted, Job, JobError, RetryPolicy


class SubmitOptions(TypedDict, total=False):
    """What may be asked for a job beside its input: the fields of `contracts.job.JobOptions`, and `input_ref`."""

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
    """One job of a batch: what `submit` takes, in one."""

    engine: str
    input: Any


class _Answer(BaseModel):
    """Written by a server that may be newer: unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class JobCounts(_Answer):
    """Jobs of an engine: waiting and running now, ended so far."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0


class WorkerCounts(_Answer):
    """Workers of an engine that are alive."""

    idle: int = 0
    running: int = 0


class Queue(_Answer):
    """What an engine has to do, and who does it."""

    jobs: JobCounts = JobCounts()
    workers: WorkerCounts = WorkerCounts()


class EngineInfo(_Answer):
    """An engine that the caller may use."""

    id: str
    version: str | None = None
    description: str = ""
    state: str = Field(description="active, paused, quarantined or retired.")
    reason: str | None = None
    health: str = "unknown"
    queue: Queue | None = None
    card: EngineCard | None = Field(None, description="Only when one engine is asked for.")


class EnginePage(_Answer):
    """Answer of GET /v1/engines."""

    engines: list[EngineInfo]


class JobNews(_Answer):
    """Something that happened to a job."""

    kind: str = Field(description="start, progress, output, log, metric, and last: completed.")
    data: Any = Field(None, description="What was told; of `completed`: the job.")


class JobPage(_Answer):
    """Answer of GET /v1/jobs."""

    jobs: list[Job]
    next_cursor: str | None = None


class DeadLetterInfo(_Answer):
    """Something that was given up."""

    id: str = Field(description="Of a job that was given up: the job's id.")
    engine: str | None = None
    job_id: str | None = Field(None, description="None: it could never become a job.")
    reason: str = Field(description="A code: PREDICT_ERROR, WORKER_LOST, UNPARSABLE, …")
    attempts: int = 0
    error: JobError | None = Field(None, description="Of the last attempt.")
    event: str | None = Field(None, description="What was delivered; only when one is asked for.")
    created_at: AwareDatetime
    redriven_as: str | None = None


class DeadLetterPage(_Answer):
    """Answer of GET /v1/dead-letters."""

    dead_letters: list[DeadLetterInfo]
    next_cursor: str | None = None


class BatchRefusal(_Answer):
    """Answer to a job of a batch that was not accepted."""

    problem: dict[str, Any]


class BatchAnswer(_Answer):
    """Answer of POST /v1/jobs/batch: one for each job, in order."""

    jobs: list[Accepted | BatchRefusal]


class Upload(_Answer):
    """Answer of POST /v1/uploads: where to PUT the object, and how to name it afterwards."""

    key: str
    url: str
