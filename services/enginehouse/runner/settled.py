"""Remembers what this worker has settled lately: against second deliveries, and against a store that forgets."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from enginehouse.contracts.job import JobRecord

_REMEMBERED_SECONDS = 600.0
_REMEMBERED_MAX = 4_096
_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Memory:
    at: float
    size: int
    record: JobRecord | None


@dataclass(slots=True)
class Settled:
    """What came of the last jobs here, the oldest forgotten first."""

    _memories: OrderedDict[str, _Memory] = field(default_factory=OrderedDict)
    _bytes: int = 0

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
            if not old and len(self._memories) <= _REMEMBERED_MAX and self._bytes <= _BYTES_MAX:
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
