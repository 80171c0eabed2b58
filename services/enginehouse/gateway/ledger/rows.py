"""Defines the ledger's rows as frozen types, with fields in the order of the table's columns (a test checks that).

Times are seconds since the epoch. Rows are named tuples, because a job's row is made several times on its way, and a
frozen dataclass of as many fields costs five to ten times as much.
"""

from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple

import pydantic_core
from pydantic import BaseModel
from sqlalchemy import Row

from enginehouse.contracts.base import WireModel
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.events import RequestingEvent, progress_sequence
from enginehouse.contracts.job import JobError, RetryPolicy, Status, StatusReason

UNFINISHED = [status.value for status in Status if not status.is_final]
"""Values of `jobs.status` of jobs that have not ended."""


def to_columns(row: NamedTuple) -> dict[str, Any]:
    """Return a row as values of its table's columns."""
    return {name: to_column(value) for name, value in row._asdict().items()}


def to_column(value: Any) -> Any:
    """Return a field's value in its column: models become JSON, enumerations text."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, BaseModel):
        return value.model_dump_json(exclude_none=True)
    return value


class FinishedEvent(WireModel):
    """Asks for an event on finished.<tenant> when the job ends."""

    correlation_id: str | None = None
    """The `correlationid` of that event: for a job of an upstream event, its `correlationid`, or else its id."""
    event: RequestingEvent | None = None
    """The upstream event that asked for the job."""


class StoredOptions(WireModel):
    """Options of a job, from its request and its engine's card at acceptance; kept as JSON in `jobs.options`."""

    retry: RetryPolicy
    retry_on_timeout: bool = False
    execution_timeout_seconds: float
    parameters: dict[str, Any] | None = None
    webhook: str | None = None
    """URL to which notices of this job are POSTed."""
    webhook_events_filter: tuple[str, ...] = ()
    """The wanted notices: `start`, `completed`."""
    finished_event: FinishedEvent | None = None


OPTIONS_LEFT_OUT = StoredOptions(retry=RetryPolicy(), execution_timeout_seconds=0)
"""Stands in rows of queries that do not read the options, because parameters can have megabytes."""


class JobRow(NamedTuple):
    """A job as the ledger knows it."""

    id: str
    tenant: str
    engine: str
    """The engine's id."""
    version: str | None
    """The engine's version in the last attempt."""
    status: Status
    status_reason: StatusReason | None
    priority: int
    input: str | None
    """JSON; None if the input is an object (`input_ref`), was purged, or is left out by the query."""
    input_ref: str | None
    """Key of the object that holds the input."""
    options: StoredOptions
    """OPTIONS_LEFT_OUT if the query leaves them out."""
    traceparent: str | None
    attempts: int
    """Number of attempts that have begun."""
    hand_overs: int
    """How often the job was published."""
    handed_over_at: float | None
    """The moment of its hand-over; None while it is not in its engine's window."""
    available_at: float
    """Earliest moment of its next hand-over."""
    worker: str | None
    """The worker that runs or ran the last attempt."""
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
    """JSON; None before success, or if the output is an object (`output_ref`), was purged, or is left out."""
    output_ref: str | None
    error: JobError | None
    dead_lettered: bool
    cancel_requested: bool
    retry_of: str | None
    retried_as: str | None
    purged: bool
    """Whether its input and output have been deleted."""
    losses: int
    """How often it got lost after a hand-over, or its worker vanished."""
    image: str | None
    """The image of the engine's container in the last attempt, by its digest."""

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
        """Make the row of a new job that has not been handed over."""
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
            losses=0,
            image=None,
        )

    @classmethod
    def from_row(cls, row: Row[Any]) -> "JobRow":
        """Read a row of `jobs` whose columns stand in the table's order."""
        values = list(row)
        values[_STATUS] = Status(values[_STATUS])
        options = values[_OPTIONS]
        values[_OPTIONS] = OPTIONS_LEFT_OUT if options is None else StoredOptions.model_validate_json(options)
        # A gateway of a newer version may have stored a reason that this one does not know: it shows none.
        values[_REASON] = _REASONS.get(values[_REASON])
        if values[_ERROR] is not None:
            values[_ERROR] = JobError.model_validate_json(values[_ERROR])
        return cls._make(values)

    def is_expired(self, now: float) -> bool:
        """Say whether its result is past its time."""
        return self.result_expires_at is not None and self.result_expires_at <= now

    def record_ttl_seconds(self, now: float, margin_seconds: int) -> int:
        """Return how long its record lives after a write at `now`.

        The record must live until the last delivery that could run the job, and until the result's time is over. No
        delivery is run after the queue deadline, so the longer of the two times is enough.
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


class ListedJob(NamedTuple):
    """A job in a listing: plain values, because a page has up to a thousand of them. The fields are columns of `jobs`."""

    id: str
    engine: str
    version: str | None
    status: str
    status_reason: str | None
    attempts: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    predict_time: float | None
    result_expires_at: float | None
    error: str | None
    """JSON of a `JobError`."""
    dead_lettered: bool
    cancel_requested: bool
    retry_of: str | None
    retried_as: str | None


_REASONS = {reason.value: reason for reason in StatusReason}
_STATUS, _REASON, _OPTIONS, _ERROR = (
    JobRow._fields.index(name) for name in ("status", "status_reason", "options", "error")
)


class EngineRow(NamedTuple):
    """An engine in its last known state."""

    id: str
    state: EngineState
    reason: str | None
    probe_at: float | None
    card: str | None
    """JSON of its card."""
    succeeded: int
    failed: int
    updated_at: float
    by_operator: bool
    """Whether an operator decided its state, not the breaker."""

    @classmethod
    def from_row(cls, row: Row[Any]) -> "EngineRow":
        """Read a row of `engines`."""
        return cls._make(row)._replace(state=EngineState(row.state))


class DeadLetterRow(NamedTuple):
    """A job that was given up, or a delivery that could not become one."""

    id: str
    tenant: str | None
    """None if nobody could parse the delivery: then it belongs to the operators."""
    engine: str | None
    job_id: str | None
    reason: str
    attempts: int
    error: JobError | None
    event: str | None
    """The delivery as text; None if the letter is a job's, and in listings."""
    created_at: float
    redriven_as: str | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> "DeadLetterRow":
        """Read a row of `dead_letters` whose columns stand in the table's order."""
        error = None if row.error is None else JobError.model_validate_json(row.error)
        return cls._make(row)._replace(error=error)


class JobEventRow(NamedTuple):
    """A report of an engine about a job while it worked on it."""

    job_id: str
    sequence: int
    kind: str
    value: str
    """JSON."""


def start_of(job_id: str, attempt: int, worker: str | None) -> JobEventRow:
    """Make the report that a worker began an attempt."""
    value = pydantic_core.to_json({"worker": worker}).decode()
    return JobEventRow(job_id, progress_sequence(attempt, 0), "start", value)


class Channel(StrEnum):
    """The way in which a notice reaches its tenant."""

    EVENT = "event"
    WEBHOOK = "webhook"


class NoticeState(StrEnum):
    """State of the delivery of a notice."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class NoticeRow(NamedTuple):
    """A notice to a tenant."""

    id: str
    job_id: str
    """Empty if the notice is about an engine."""
    tenant: str
    channel: Channel
    event: str
    """The event's type."""
    target: str | None
    """The webhook's URL; None for an event."""
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
