"""What the gateway itself may decide about a job, as functions of its present record. None leaves it as it is."""

from collections.abc import Callable

from enginehouse.contracts.job import JobError, JobErrorCode, JobRecord, Status, may_change
from enginehouse.contracts.moments import now

Decision = Callable[[JobRecord | None], JobRecord | None]


def _ends(after: Status, code: JobErrorCode, message: str, *, dead_lettered: bool = False) -> Decision:
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
    """Canceled, unless it has ended."""
    return _ends(Status.CANCELED, JobErrorCode.CANCELED, f"Canceled by {by}.")


def expire(max_time_in_queue_seconds: float, attempts_over: int = 0) -> Decision:
    """Expired, unless it runs or has ended. Of the attempts begun, the ledger knows `attempts_over` to be over.

    A record that still shows one of those as running, the claim of a worker that vanished, goes back to queued first.
    """
    end = _ends(
        Status.EXPIRED,
        JobErrorCode.EXPIRED,
        f"No worker began it within max_time_in_queue_seconds={max_time_in_queue_seconds:g}.",
    )

    def decide(present: JobRecord | None) -> JobRecord | None:
        if present and present.status is Status.RUNNING and present.attempt <= attempts_over:
            return present.model_copy(update={"status": Status.QUEUED})
        return end(present)

    return decide


engine_removed = _ends(Status.CANCELED, JobErrorCode.ENGINE_REMOVED, "The engine was removed before the job ended.")
"""Canceled, with its engine."""

purged = _ends(Status.CANCELED, JobErrorCode.CANCELED, "Purged from the engine's queue by an operator.")
"""Canceled, with all that waited for its engine."""


def give_up(hand_overs: int) -> Decision:
    """Failed, for a job that was handed over again and again and never got anywhere."""
    return _ends(
        Status.FAILED,
        JobErrorCode.WORKER_LOST,
        f"Handed over {hand_overs} times, and no worker lived to say what became of it.",
        dead_lettered=True,
    )
