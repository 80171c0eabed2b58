"""Remembers how jobs ended here lately, against second deliveries and against a store that forgets records."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from enginehouse.contracts.job import JobRecord
from enginehouse.runner.pace import Pace

_REMEMBERED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _End:
    at: float
    """On the monotonic clock."""
    size: int
    """Bytes of the output."""
    record: JobRecord | None
    """None: the attempt was settled, and the job goes on."""


class RecentEnds:
    """How the last attempts here were settled. The oldest is forgotten first."""

    def __init__(self, pace: Pace) -> None:
        self._count_max = pace.recent_ends_max
        self._bytes_max = pace.recent_ends_max_bytes
        self._ends: OrderedDict[str, _End] = OrderedDict()
        self._bytes = 0

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._ends

    def add(self, job_id: str, record: JobRecord, size: int) -> None:
        """Remember the record that stands after an attempt here. Its output has about `size` bytes."""
        self._forget(job_id)
        self._ends[job_id] = _End(time.monotonic(), size, record if record.status.is_final else None)
        self._bytes += size
        while self._ends:
            oldest, end = next(iter(self._ends.items()))
            is_old = end.at < time.monotonic() - _REMEMBERED_SECONDS
            if not is_old and len(self._ends) <= self._count_max and self._bytes <= self._bytes_max:
                break
            self._forget(oldest)

    def get(self, job_id: str) -> JobRecord | None:
        """Return the final record of a job that ended here, if it is remembered."""
        end = self._ends.get(job_id)
        return end.record if end else None

    def _forget(self, job_id: str) -> None:
        end = self._ends.pop(job_id, None)
        if end:
            self._bytes -= end.size
