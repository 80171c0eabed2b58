"""Callers that wait for a job to end: woken, never polling."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Waiters:
    """Who waits for which job, in this gateway."""

    def __init__(self) -> None:
        self._futures: dict[str, set[asyncio.Future[dict[str, Any] | None]]] = defaultdict(set)

    @contextmanager
    def waiting_for(self, job_id: str) -> Iterator[asyncio.Future[dict[str, Any] | None]]:
        """A future that ends with the job: with its row, or None when the row must be read."""
        future: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._futures[job_id].add(future)
        try:
            yield future
        finally:
            self._futures[job_id].discard(future)
            if not self._futures[job_id]:
                del self._futures[job_id]

    def wake_all(self) -> None:
        """Any job may have ended unheard: let everybody read."""
        for job_id in list(self._futures):
            self.wake(job_id, None)

    def wake(self, job_id: str, row: dict[str, Any] | None) -> None:
        """The job has ended."""
        for future in self._futures.get(job_id, ()):
            if not future.done():
                future.set_result(row)
