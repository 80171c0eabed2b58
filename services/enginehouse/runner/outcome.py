"""What can come of one attempt, and the only place where an outcome becomes a record.

`settle.py` writes what `decide` says, then publishes, then acknowledges.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from enginehouse.contracts.events import JobOrder
from enginehouse.contracts.job import JobError, JobErrorCode, JobRecord, RetryPolicy, Status, may_change
from enginehouse.contracts.moments import now


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The engine answered with a result."""

    output: Any
    size: int = 0
    """Bytes of the answer that held it."""
    output_ref: str | None = None
    """Key of the object that holds it instead."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The engine says that this input is bad: trying again cannot help."""

    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine failed. `retryable` False: it answered, and would answer the same nonsense again."""

    message: str
    code: JobErrorCode = JobErrorCode.PREDICT_ERROR
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The execution clock ran out."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The worker that ran the last attempt vanished, and no attempts are left."""

    worker: str | None


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The job goes back to the queue and no attempt is counted: what happened was not its doing."""

    reason: str
    delay_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Superseded:
    """The record says that this attempt no longer matters: canceled, final, or run by another worker."""

    reason: str


Outcome = Succeeded | Rejected | Failed | TimedOut | WorkerLost | HandedBack | Superseded


@dataclass(slots=True)
class Attempt:
    """One attempt at a job by this worker. `number` grows when the job turns out to be taken over."""

    job_id: str
    number: int
    worker: str
    version: str
    order: JobOrder
    started_at: datetime = field(default_factory=now)
    predict_time: float | None = None
    takes_over: JobRecord | None = None
    """The running record of a vanished worker, which alone this attempt may claim over."""
    record_seen: bool = False
    """Whether a record is known to exist: if not, the first write goes without reading."""
    input_json: bytes | None = None
    """The input as JSON text, where it came by reference."""
    output_max_bytes: int | None = None
    """Largest answer that can be kept, where outputs may go by reference."""
    tell: Callable[[dict[str, Any]], None] | None = None
    """Takes what the engine streams while it works."""
    announced: bool = False
    """Whether the gateway was told that it runs."""
    traceparent: str | None = None

    def owns(self, record: JobRecord | None) -> bool:
        """Whether `record` is this very attempt's claim; a former process of the same name has another start."""
        return (
            record is not None
            and record.status is Status.RUNNING
            and (record.worker, record.attempt, record.started_at) == (self.worker, self.number, self.started_at)
        )


def claim_record(attempt: Attempt) -> JobRecord:
    """The record that says: this worker runs it."""
    return JobRecord(
        status=Status.RUNNING,
        attempt=attempt.number,
        worker=attempt.worker,
        version=attempt.version,
        started_at=attempt.started_at,
    )


def decide_claim(attempt: Attempt, present: JobRecord | None) -> JobRecord | None:
    """The claim to write over `present`, or None if it may not be."""
    if present is None:
        return claim_record(attempt)
    if not may_change(present.status, Status.RUNNING):
        return None
    if present.status is Status.QUEUED:
        return claim_record(attempt) if present.attempt < attempt.number else None
    return claim_record(attempt) if present == attempt.takes_over else None


def backoff_seconds(retry: RetryPolicy, attempt: int) -> float:
    """How long a job waits after its `attempt`th failure: exponential, capped, the upper half of it random."""
    full: int = min(retry.max_delay_ms, retry.initial_delay_ms * 2 ** min(attempt - 1, 30))
    return jittered(full / 1000)


def jittered(seconds: float) -> float:
    """Between half of it and all of it, so that what failed together does not come back together."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311  # Nothing secret hangs on it.


def record_for(outcome: Outcome, attempt: Attempt, moment: datetime) -> JobRecord | None:
    """The record that `outcome` wants, apart from what is there; None: it wants nothing written."""
    match outcome:
        case Succeeded():
            done = _final(attempt, moment, Status.SUCCEEDED, output=outcome.output)
            return done.model_copy(update={"output_ref": outcome.output_ref}) if outcome.output_ref else done
        case Rejected(message):
            return _final(
                attempt, moment, Status.FAILED, error=JobError(code=JobErrorCode.INVALID_INPUT, message=message)
            )
        case Failed(message, code, retryable):
            error = JobError(code=code, message=message, retryable=retryable)
            if retryable and attempt.number < attempt.order.retry.max_attempts:
                return _retry(attempt, moment, error)
            return _final(attempt, moment, Status.FAILED, error=error, dead_lettered=True)
        case TimedOut(seconds):
            error = JobError(
                code=JobErrorCode.PREDICT_TIMEOUT,
                message=f"the engine did not answer within execution_timeout_seconds ({seconds:g} s)",
                retryable=True,
            )
            wanted = attempt.order.retry_on_timeout
            if wanted and attempt.number < attempt.order.retry.max_attempts:
                return _retry(attempt, moment, error)
            return _final(attempt, moment, Status.TIMED_OUT, error=error, dead_lettered=wanted)
        case WorkerLost(worker):
            message = f"worker {worker} vanished while it ran attempt {attempt.number}, the last one allowed"
            error = JobError(code=JobErrorCode.WORKER_LOST, message=message, retryable=True)
            return _final(attempt, moment, Status.FAILED, error=error, dead_lettered=True)
        case HandedBack(_, delay):
            retry_at = moment + timedelta(seconds=delay)
            return JobRecord(status=Status.QUEUED, attempt=attempt.number - 1, retry_at=retry_at)
        case Superseded():
            return None


def decide(outcome: Outcome, attempt: Attempt, present: JobRecord | None, wanted: JobRecord) -> JobRecord | None:
    """What to write over `present`: `wanted`, or None to leave it. The first final state stays the only one."""
    before = present.status if present else Status.QUEUED
    if not may_change(before, wanted.status):
        return None
    if present is None:
        return wanted
    if isinstance(outcome, Succeeded | Rejected):
        # The answer holds, whoever else is at it: first writer wins.
        return wanted.model_copy(update={"attempt": max(wanted.attempt, present.attempt)})
    if isinstance(outcome, WorkerLost):
        return wanted if present == attempt.takes_over else None
    overtaken = present.attempt > attempt.number or (
        present.attempt == attempt.number and (present.status is Status.QUEUED or present.worker != attempt.worker)
    )
    return None if overtaken else wanted


def _final(
    attempt: Attempt,
    moment: datetime,
    status: Status,
    *,
    output: Any = None,
    error: JobError | None = None,
    dead_lettered: bool = False,
) -> JobRecord:
    return JobRecord(
        status=status,
        attempt=attempt.number,
        worker=attempt.worker,
        version=attempt.version,
        started_at=attempt.started_at,
        finished_at=moment,
        predict_time=attempt.predict_time,
        output=output,
        error=error,
        dead_lettered=dead_lettered,
    )


def _retry(attempt: Attempt, moment: datetime, error: JobError) -> JobRecord:
    return JobRecord(
        status=Status.QUEUED,
        attempt=attempt.number,
        worker=attempt.worker,
        version=attempt.version,
        started_at=attempt.started_at,
        predict_time=attempt.predict_time,
        retry_at=moment + timedelta(seconds=backoff_seconds(attempt.order.retry, attempt.number)),
        error=error,
    )
