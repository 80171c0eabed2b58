"""Tasks that run beside the main work, until they end or their owner is closed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")

RESTART_SECONDS = 1.0
"""Pause before a task that failed is started again."""
_CANCEL_AGAIN_SECONDS = 1.0


class Background:
    """Owns tasks: keeps them from being garbage-collected, logs how they fail, ends them at `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run `work` beside everything else. A failure is logged; nobody need await the task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, name: str, make: Callable[[], Awaitable[None]], restart_seconds: float = RESTART_SECONDS) -> None:
        """Run what `make` gives, and start it again after `restart_seconds` each time that it fails."""
        self.start(_keep_going(name, make, restart_seconds))

    async def close(self, finish_seconds: float = 0) -> None:
        """Let what runs finish for at most `finish_seconds`, then cancel the rest and wait until it has ended."""
        if finish_seconds and self._tasks:
            await asyncio.wait(self._tasks, timeout=finish_seconds)
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            # Again after a while: some code swallows a cancellation that comes at the wrong moment.
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
            log.exception(f"The task {name} failed and is started again", action="task_failed", task=name)
        await asyncio.sleep(restart_seconds)
