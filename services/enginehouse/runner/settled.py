"""Remembers what this worker has settled lately: against second deliveries, and against a store that forgets."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from enginehouse.contracts.job import JobRecord
from enginehouse.runner.pace import Pace

_REMEMBERED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Memory:
    at: float
    size: int
    record: JobRecord | None


class Settled:
    """How the last jobs ended here. The oldest end is forgotten first."""

    def __init__(self, pace: Pace) -> None:
        self._count_max = pace.recent_ends_max
        self._bytes_max = pace.recent_ends_max_bytes
        self._memories: OrderedDict[str, _Memory] = OrderedDict()
        self._bytes = 0

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._memories

    def add(self, job_id: str, record: JobRecord, size: int) -> None:
        """Remember what holds after an attempt here; its output has about `size` bytes."""
        self._forget(job_id)
        self._memories[job_id] = _Memory(time.monotonic(), size, record if record.status.is_final else None)
        self._bytes += size
        while self._memories:
            oldest, memory = next(iter(self._memories.items()))
            old = memory.at < time.monotonic() - _REMEMBERED_SECONDS
            if not old and len(self._memories) <= self._count_max and self._bytes <= self._bytes_max:
                break
            self._forget(oldest)

    def get(self, job_id: str) -> JobRecord | None:
        """The record with which a job ended, if that is remembered."""
        memory = self._memories.get(job_id)
        return memory.record if memory else None

    def _forget(self, job_id: str) -> None:
        memory = self._memories.pop(job_id, None)
        if memory:
            self._bytes -= memory.size
