"""Makes the decisions that the gateway itself may take about a job, as functions of the job's present record."""

from collections.abc import Callable

from enginehouse.contracts.job import JobError, JobErrorCode, JobRecord, Status, may_change
from enginehouse.contracts.moments import now

Decision = Callable[[JobRecord | None], JobRecord | None]
"""Takes the present record, or None if there is none. Returns the record to write, or None to write nothing."""


def _end(after: Status, code: JobErrorCode, message: str, *, dead_lettered: bool = False) -> Decision:
    def decide(present: JobRecord | None) -> JobRecord | None:
        present = present or JobRecord(status=Status.QUEUED)
        if not may_change(present.status, after):
            return None
        return present.model_copy(
            update={
                "status": after,
                "finished_at": now(),
                "retry_at": None,
                "error": JobError(code=code, message=message),
                "dead_lettered": dead_lettered,
            }
        )

    return decide


def cancel(by: str) -> Decision:
    """Cancel the job, unless it has ended."""
    return _end(Status.CANCELED, JobErrorCode.CANCELED, f"Canceled by {by}.")


def expire(max_time_in_queue_seconds: float, attempts_over: int = 0) -> Decision:
    """Expire the job, unless it runs or has ended.

    The ledger knows that the first `attempts_over` attempts are over. If the record still shows one of them as running,
    its worker vanished: the record first goes back to queued.
    """
    end = _end(
        Status.EXPIRED,
        JobErrorCode.EXPIRED,
        f"No worker began it within max_time_in_queue_seconds={max_time_in_queue_seconds:g}.",
    )

    def decide(present: JobRecord | None) -> JobRecord | None:
        if present and present.status is Status.RUNNING and present.attempt <= attempts_over:
            return present.model_copy(update={"status": Status.QUEUED})
        return end(present)

    return decide


engine_removed = _end(Status.CANCELED, JobErrorCode.ENGINE_REMOVED, "The engine was removed before the job ended.")
"""Cancel the job together with its engine."""

tenant_removed = _end(Status.CANCELED, JobErrorCode.CANCELED, "The tenant was removed before the job ended.")
"""Cancel the job because its tenant's data is being deleted."""

trial_ended = _end(
    Status.CANCELED,
    JobErrorCode.TRIAL_ENDED,
    "The version on trial that the job was sent to was taken away before the job began. Send it to the engine itself, or "
    "deploy another version with --no-promote.",
)
"""Cancel the job together with the trial of the version it was sent to."""

purge = _end(Status.CANCELED, JobErrorCode.CANCELED, "Purged from the engine's queue by an operator.")
"""Cancel the job together with all others that wait for its engine."""


def unparsable(cause: str) -> Decision:
    """Fail a job whose message came back unreadable, unless it has ended or another delivery of it runs."""
    end = _end(
        Status.FAILED,
        JobErrorCode.UNPARSABLE,
        f"The job's message came back from its way unreadable, so it cannot be run: {cause}",
        dead_lettered=True,
    )

    def decide(present: JobRecord | None) -> JobRecord | None:
        return None if present and present.status is Status.RUNNING else end(present)

    return decide


def give_up(losses: int) -> Decision:
    """Fail a job that got lost `losses` times."""
    return _end(
        Status.FAILED,
        JobErrorCode.WORKER_LOST,
        f"Lost {losses} times after it was handed over: no worker reported how it ended.",
        dead_lettered=True,
    )
