"""Runs tasks beside the main work, until they end or their owner is closed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")

RESTART_SECONDS = 1.0
"""Pause before a failed task is started again."""
_CANCEL_AGAIN_SECONDS = 1.0


class Background:
    """Owns tasks: protects them from garbage collection, logs their failures, and ends them at `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run `work` in a task of its own. A failure is logged, so the caller need not await the task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(
        self, name: str, make: Callable[[], Awaitable[None]], restart_seconds: float = RESTART_SECONDS
    ) -> "asyncio.Task[None]":
        """Run the work that `make` returns; after each failure, make it again and run it after `restart_seconds`."""
        return self.start(_keep_going(name, make, restart_seconds))

    async def close(self, finish_seconds: float = 0) -> None:
        """Give the tasks up to `finish_seconds` to finish, then cancel the rest and wait until all have ended."""
        if finish_seconds and self._tasks:
            await asyncio.wait(self._tasks, timeout=finish_seconds)
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            # The loop cancels again after a while: some code swallows a cancellation that comes at the wrong moment.
            await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_SECONDS)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error(f"A background task failed: {error!r}", action="task_failed", exc_info=error)


async def _keep_going(name: str, make: Callable[[], Awaitable[None]], restart_seconds: float) -> None:
    while True:
        try:
            return await make()
        except Exception:
            log.exception(f"The task {name} failed and will be started again", action="task_failed", task=name)
        await asyncio.sleep(restart_seconds)
