"""The ledger's rows as frozen types. Fields stand in the order of the table's columns, which a test holds.

Times are seconds since the epoch. Named tuples, because a job's row is made several times on its way: a frozen
dataclass of as many fields costs five to ten times as much.
"""

from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import Row

from enginehouse.contracts.base import WireModel
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.job import JobError, RetryPolicy, Status, StatusReason

UNFINISHED = [status.value for status in Status if not status.is_final]
"""Of `jobs.status`."""


def to_columns(row: NamedTuple) -> dict[str, Any]:
    """Write a row as values of its table's columns."""
    return {name: to_column(value) for name, value in row._asdict().items()}


def to_column(value: Any) -> Any:
    """Write a field as its column keeps it: models as JSON, enumerations as text."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, BaseModel):
        return value.model_dump_json(exclude_none=True)
    return value


class FinishedEvent(WireModel):
    """Asks for an event on finished.<tenant> when the job ends."""

    correlation_id: str | None = None
    """What that event names as its `correlationid`: for upstream events, the event that asked for the job."""


class StoredOptions(WireModel):
    """What holds for a job, as its request and its engine's card said at acceptance; kept as JSON in `jobs.options`."""

    retry: RetryPolicy
    retry_on_timeout: bool = False
    execution_timeout_seconds: float
    parameters: dict[str, Any] | None = None
    webhook: str | None = None
    """Where to POST notices of this job."""
    webhook_events_filter: tuple[str, ...] = ()
    """The notices wanted: `start`, `completed`."""
    finished_event: FinishedEvent | None = None


OPTIONS_LEFT_OUT = StoredOptions(retry=RetryPolicy(), execution_timeout_seconds=0)
"""Stands in rows of queries that do not read the options: parameters can have megabytes, and nothing there needs them."""


class JobRow(NamedTuple):
    """A job as the ledger knows it."""

    id: str
    tenant: str
    engine: str
    """The engine's id."""
    version: str | None
    """Of the engine, in the last attempt."""
    status: Status
    status_reason: StatusReason | None
    priority: int
    input: str | None
    """JSON; None if it is an object (`input_ref`), was purged, or the query leaves it out."""
    input_ref: str | None
    """Key of the object that holds the input."""
    options: StoredOptions
    """OPTIONS_LEFT_OUT if the query leaves them out."""
    traceparent: str | None
    attempts: int
    """Attempts begun so far."""
    hand_overs: int
    """How often it was published."""
    handed_over_at: float | None
    """Set while it stands in its engine's window."""
    available_at: float
    """It is not handed over before this moment."""
    worker: str | None
    """Which worker runs or ran the last attempt."""
    created_at: float
    queue_deadline: float
    """The end of its time in the queue."""
    started_at: float | None
    finished_at: float | None
    predict_time: float | None
    """Seconds that the last attempt took at the engine."""
    result_ttl_seconds: int
    result_expires_at: float | None
    output: str | None
    """JSON; None until it succeeded, if it is an object (`output_ref`), was purged, or the query leaves it out."""
    output_ref: str | None
    error: JobError | None
    dead_lettered: bool
    cancel_requested: bool
    retry_of: str | None
    retried_as: str | None
    purged: bool
    """Whether its input and output are gone."""

    @classmethod
    def accepted(
        cls,
        *,
        id: str,  # noqa: A002 - the column's name
        tenant: str,
        engine: str,
        priority: int,
        input: str | None,  # noqa: A002 - the column's name
        input_ref: str | None,
        options: StoredOptions,
        traceparent: str | None,
        created_at: float,
        queue_deadline: float,
        result_ttl_seconds: int,
        retry_of: str | None,
    ) -> "JobRow":
        """Make the row of a job that has just been accepted and not been handed over."""
        return cls(
            id=id,
            tenant=tenant,
            engine=engine,
            version=None,
            status=Status.QUEUED,
            status_reason=None,
            priority=priority,
            input=input,
            input_ref=input_ref,
            options=options,
            traceparent=traceparent,
            attempts=0,
            hand_overs=0,
            handed_over_at=None,
            available_at=created_at,
            worker=None,
            created_at=created_at,
            queue_deadline=queue_deadline,
            started_at=None,
            finished_at=None,
            predict_time=None,
            result_ttl_seconds=result_ttl_seconds,
            result_expires_at=None,
            output=None,
            output_ref=None,
            error=None,
            dead_lettered=False,
            cancel_requested=False,
            retry_of=retry_of,
            retried_as=None,
            purged=False,
        )

    @classmethod
    def from_row(cls, row: Row[Any]) -> "JobRow":
        """Read a row of `jobs` whose columns stand in the table's order."""
        values = list(row)
        values[_STATUS] = Status(values[_STATUS])
        options = values[_OPTIONS]
        values[_OPTIONS] = OPTIONS_LEFT_OUT if options is None else StoredOptions.model_validate_json(options)
        if values[_REASON] is not None:
            values[_REASON] = StatusReason(values[_REASON])
        if values[_ERROR] is not None:
            values[_ERROR] = JobError.model_validate_json(values[_ERROR])
        return cls._make(values)

    def is_expired(self, now: float) -> bool:
        """Say whether its result is past its time."""
        return self.result_expires_at is not None and self.result_expires_at <= now

    def record_ttl_seconds(self, now: float, margin_seconds: int) -> int:
        """Return how long its record lives after a write at `now`.

        Long enough for the last delivery to be recognised and for the result to be read: a delivery past the queue
        deadline is not run, and a result past its time is not read, so the longer of the two is enough.
        """
        queue_left = max(self.queue_deadline - now, 0)
        longest = max(queue_left, self.result_ttl_seconds)
        return int(longest + self.options.execution_timeout_seconds + margin_seconds)


def by_engine(rows: Iterable[JobRow]) -> dict[str, list[JobRow]]:
    """Group jobs by their engine."""
    grouped: dict[str, list[JobRow]] = defaultdict(list)
    for row in rows:
        grouped[row.engine].append(row)
    return grouped


_STATUS, _REASON, _OPTIONS, _ERROR = (
    JobRow._fields.index(name) for name in ("status", "status_reason", "options", "error")
)


class EngineRow(NamedTuple):
    """An engine as it was last known."""

    id: str
    state: EngineState
    reason: str | None
    probe_at: float | None
    card: str | None
    """JSON of its card."""
    succeeded: int
    failed: int
    updated_at: float

    @classmethod
    def from_row(cls, row: Row[Any]) -> "EngineRow":
        """Read a row of `engines`."""
        return cls._make(row)._replace(state=EngineState(row.state))


class DeadLetterRow(NamedTuple):
    """A job that was given up, or a delivery that could not become one."""

    id: str
    tenant: str | None
    """None: nobody could parse it, so it is the operators'."""
    engine: str | None
    job_id: str | None
    reason: str
    attempts: int
    error: JobError | None
    event: str | None
    """What was delivered, as text; None for a job's, and in listings."""
    created_at: float
    redriven_as: str | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> "DeadLetterRow":
        """Read a row of `dead_letters` whose columns stand in the table's order."""
        error = None if row.error is None else JobError.model_validate_json(row.error)
        return cls._make(row)._replace(error=error)


class JobEventRow(NamedTuple):
    """What an engine reported of a job while it worked."""

    job_id: str
    sequence: int
    kind: str
    value: str
    """JSON."""


class Channel(StrEnum):
    """How a notice reaches its tenant."""

    EVENT = "event"
    WEBHOOK = "webhook"


class NoticeState(StrEnum):
    """How far a notice is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class NoticeRow(NamedTuple):
    """Something that a tenant must still be told."""

    id: str
    job_id: str
    """Empty: it is about an engine."""
    tenant: str
    channel: Channel
    event: str
    """The event's type."""
    target: str | None
    """The webhook's URL."""
    body: str
    state: NoticeState
    last_error: str | None
    attempts: int
    due_at: float
    created_at: float

    @classmethod
    def from_row(cls, row: Row[Any]) -> "NoticeRow":
        """Read a row of `notices`."""
        return cls._make(row)._replace(channel=Channel(row.channel), state=NoticeState(row.state))
