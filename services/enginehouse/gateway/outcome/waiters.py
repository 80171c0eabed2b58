"""Wakes callers that wait for a job, so that they need not poll."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from enginehouse.gateway.ledger.rows import JobRow

Ending = asyncio.Future[JobRow | None]
"""Is done when a job changes: with its row if the job ended, with None if the row must be read."""


class Waiters:
    """Holds the futures of this gateway's callers that wait for jobs."""

    def __init__(self) -> None:
        self._endings: dict[str, set[Ending]] = defaultdict(set)

    @contextmanager
    def waiting_for(self, job_id: str) -> Iterator[Ending]:
        """Watch a job from now until the end of the block."""
        ending: Ending = asyncio.get_running_loop().create_future()
        self._endings[job_id].add(ending)
        try:
            yield ending
        finally:
            self._endings[job_id].discard(ending)
            if not self._endings[job_id]:
                del self._endings[job_id]

    def wake_all(self) -> None:
        """Wake every caller to read its job, because notifications may have been missed."""
        for job_id in list(self._endings):
            self.wake(job_id, None)

    def wake(self, job_id: str, row: JobRow | None) -> None:
        """Wake the callers that wait for a job, with its row if it has ended."""
        for ending in self._endings.get(job_id, ()):
            if not ending.done():
                ending.set_result(row)


async def wait_for(ending: Ending, seconds: float) -> JobRow | None:
    """Wait at most `seconds`; return the row if the job ended in this gateway, or None if the row must be read."""
    done, _ = await asyncio.wait([ending], timeout=seconds)
    return ending.result() if done else None
