"""The outcomes of an attempt, and the only place where an outcome becomes a record.

`settle.py` writes the record that `decide` returns, then publishes, then acknowledges.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pydantic_core

from enginehouse.contracts.job import JobError, JobErrorCode, JobRecord, RetryPolicy, Status, may_change
from enginehouse.runner.attempt import Attempt, Execution


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The engine answered with a result."""

    output: Any
    size: int = 0
    """Bytes of the answer that held the output."""
    output_json: bytes | None = None
    """The output as JSON text instead, if it was too large to be parsed here."""
    output_ref: str | None = None
    """Key of the object that holds the output instead of the record."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The engine refused the input: trying again cannot help."""

    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine failed. `retryable` is False if it gave a useless answer, which it would give again."""

    message: str
    code: JobErrorCode = JobErrorCode.PREDICT_ERROR
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The execution clock ran out."""

    seconds: float
    reason: str | None = None
    """What is known about the cause."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The worker that ran the last attempt vanished, and no attempts are left."""

    worker: str | None


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The job goes back to the queue and no attempt is counted, because the job is not the cause."""

    reason: str
    delay_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Superseded:
    """The attempt no longer matters: by its record the job was canceled, has ended, or runs at another worker."""

    reason: str


Outcome = Succeeded | Rejected | Failed | TimedOut | WorkerLost | HandedBack | Superseded


def claim_record(attempt: Attempt) -> JobRecord:
    """Return the record that says that this worker runs the job."""
    return JobRecord(
        status=Status.RUNNING,
        attempt=attempt.number,
        worker=attempt.worker,
        version=attempt.version,
        image=attempt.image,
        started_at=attempt.started_at,
    )


def decide_claim(attempt: Attempt, present: JobRecord | None) -> JobRecord | None:
    """Return the claim to write over `present`, or None if the attempt may not claim the job."""
    if present is None:
        return claim_record(attempt)
    if not may_change(present.status, Status.RUNNING):
        return None
    if present.status is Status.QUEUED:
        return claim_record(attempt) if present.attempt < attempt.number else None
    return claim_record(attempt) if present == attempt.takes_over else None


def backoff_seconds(retry: RetryPolicy, attempt: int) -> float:
    """Return how long a job waits after its `attempt`th failure: exponential, capped, and jittered."""
    full: int = min(retry.max_delay_ms, retry.initial_delay_ms * 2 ** min(attempt - 1, 30))
    return jittered(full / 1000)


def jittered(seconds: float) -> float:
    """Return a random time between half of `seconds` and all of it: jobs that failed together then come back one by one."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311  # It protects no secret.


def record_for(outcome: Outcome, execution: Execution, moment: datetime) -> JobRecord | None:
    """Return the record that `outcome` asks for, whatever is stored at present; None if it asks for none."""
    number, order = execution.attempt.number, execution.attempt.order
    may_retry = number < order.retry.max_attempts
    match outcome:
        case Succeeded():
            # Only where no object took a large output.
            output = outcome.output if outcome.output_json is None else pydantic_core.from_json(outcome.output_json)
            done = _final(execution, moment, Status.SUCCEEDED, output=output)
            return done.model_copy(update={"output_ref": outcome.output_ref}) if outcome.output_ref else done
        case Rejected(message):
            error = JobError(code=JobErrorCode.INVALID_INPUT, message=message)
            return _final(execution, moment, Status.FAILED, error=error)
        case Failed(message, code, retryable):
            error = JobError(code=code, message=message, retryable=retryable)
            if retryable and may_retry:
                return _retry(execution, moment, error)
            return _final(execution, moment, Status.FAILED, error=error, dead_lettered=True)
        case TimedOut(seconds, reason):
            message = f"the engine did not answer within execution_timeout_seconds ({seconds:g} s)"
            message += f"; the job {reason}" if reason else ""
            error = JobError(code=JobErrorCode.PREDICT_TIMEOUT, message=message, retryable=True)
            if order.retry_on_timeout and may_retry:
                return _retry(execution, moment, error)
            return _final(execution, moment, Status.TIMED_OUT, error=error, dead_lettered=order.retry_on_timeout)
        case WorkerLost(worker):
            message = f"worker {worker} vanished while it ran attempt {number}, the last one allowed"
            error = JobError(code=JobErrorCode.WORKER_LOST, message=message, retryable=True)
            return _final(execution, moment, Status.FAILED, error=error, dead_lettered=True)
        case HandedBack(_, delay):
            return JobRecord(status=Status.QUEUED, attempt=number - 1, retry_at=moment + timedelta(seconds=delay))
        case Superseded():
            return None


def decide(outcome: Outcome, attempt: Attempt, present: JobRecord | None, wanted: JobRecord) -> JobRecord | None:
    """Return the record to write over `present`, or None to leave that. The first final state stays the only one."""
    before = present.status if present else Status.QUEUED
    if not may_change(before, wanted.status):
        return None
    if present is None:
        return wanted
    if isinstance(outcome, Succeeded | Rejected):
        # An answer is valid even if another worker runs the job by now: the first writer wins.
        return wanted.model_copy(update={"attempt": max(wanted.attempt, present.attempt)})
    if isinstance(outcome, WorkerLost):
        return wanted if present == attempt.takes_over else None
    overtaken = present.attempt > attempt.number or (
        present.attempt == attempt.number and (present.status is Status.QUEUED or present.worker != attempt.worker)
    )
    return None if overtaken else wanted


def _final(
    execution: Execution,
    moment: datetime,
    status: Status,
    *,
    output: Any = None,
    error: JobError | None = None,
    dead_lettered: bool = False,
) -> JobRecord:
    attempt = execution.attempt
    return JobRecord(
        status=status,
        attempt=attempt.number,
        worker=attempt.worker,
        version=attempt.version,
        image=attempt.image,
        started_at=attempt.started_at,
        finished_at=moment,
        predict_time=execution.predict_time,
        output=output,
        error=error,
        dead_lettered=dead_lettered,
    )


def _retry(execution: Execution, moment: datetime, error: JobError) -> JobRecord:
    attempt = execution.attempt
    return JobRecord(
        status=Status.QUEUED,
        attempt=attempt.number,
        worker=attempt.worker,
        version=attempt.version,
        image=attempt.image,
        started_at=attempt.started_at,
        predict_time=execution.predict_time,
        retry_at=moment + timedelta(seconds=backoff_seconds(attempt.order.retry, attempt.number)),
        error=error,
    )
