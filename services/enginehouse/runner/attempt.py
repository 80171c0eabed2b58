"""One attempt at a job: the fixed part, and the part that changes while it runs."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from enginehouse.contracts.events import JobOrder
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a job by one worker."""

    job_id: str
    number: int
    """Counted from 1 over all workers."""
    worker: str
    version: str
    """The engine's version."""
    order: JobOrder
    image: str | None = None
    """The image that the engine's container is made from, by its digest; None if it is no container."""
    started_at: datetime = field(default_factory=now)
    """Distinguishes the claim of this attempt from a claim by a former process with the same worker name."""
    takes_over: JobRecord | None = None
    """The running record of a vanished worker: the only running record that this attempt may replace."""
    traceparent: str | None = None

    def owns(self, record: JobRecord | None) -> bool:
        """Return whether `record` is the claim of exactly this attempt."""
        return (
            record is not None
            and record.status is Status.RUNNING
            and (record.worker, record.attempt, record.started_at) == (self.worker, self.number, self.started_at)
        )


@dataclass(slots=True, eq=False)
class Execution:
    """An attempt that is under way, with everything about it that changes until it is settled."""

    attempt: Attempt
    record_seen: bool = False
    """Whether the job is known to have a record. If not, the first write creates one without reading."""
    announced: bool = False
    """Whether the gateway has been sent the hint that the job runs."""
    input_json: bytes | None = None
    """The input as JSON text, if it came by reference."""
    output_max_bytes: int | None = None
    """Largest answer that can be kept, if outputs may go by reference."""
    on_line: Callable[[dict[str, Any]], None] | None = None
    """Called with each line that the engine streams before its result."""
    predict_time: float | None = None
    """Seconds that the last call took at the engine."""

    def become(self, number: int, takes_over: JobRecord | None) -> None:
        """Go on as attempt `number`, which may replace the record `takes_over` of a vanished worker."""
        if (number, takes_over) != (self.attempt.number, self.attempt.takes_over):
            self.attempt = replace(self.attempt, number=number, takes_over=takes_over)
