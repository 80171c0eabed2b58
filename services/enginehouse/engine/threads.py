"""Run an engine's blocking methods in a fixed number of threads.

A thread cannot be stopped. If nobody waits for its work any more, it is abandoned: another thread takes its place at once,
and it ends when its work does. At most as many are abandoned as there are threads, which bounds what they cost.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

Outcome = tuple[Any, BaseException | None]
"""What a function returned, or what it raised: a future cannot hold every exception (StopIteration, SystemExit)."""


class Work:
    """One call of a function in a thread."""

    __slots__ = ("function", "future", "is_abandoned", "is_begun", "is_finished")

    def __init__(self, function: "Callable[[Work], Any]", future: "asyncio.Future[Outcome]") -> None:
        self.function = function
        self.future = future
        self.is_begun = self.is_finished = self.is_abandoned = False


class Threads:
    """At most `count` threads for work that somebody waits for. Used in one event loop."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._waiting: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        """Decides whether work was finished or abandoned first. All else changes in the event loop only."""
        self._threads = 0
        """Threads that take work: not those that are abandoned."""
        self._in_work = 0
        """Work that somebody waits for, whether it has begun or not."""
        self.abandoned = 0
        """Threads that still work on what nobody waits for."""

    @property
    def are_waited_for(self) -> bool:
        """Return whether work waits for a thread."""
        return self._in_work > self.count

    def submit(self, function: Callable[[Work], Any]) -> Work:
        """Have `function` called with its work in a thread. The work's future then has the outcome."""
        work = Work(function, asyncio.get_running_loop().create_future())
        self._in_work += 1
        self._waiting.put(work)
        self._start_missing()
        return work

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function` in a thread, and return what it returns or raise what it raises."""
        value, error = await self.submit(lambda _: function(*arguments)).future
        if error is not None:
            raise error
        return value

    def abandon(self, work: Work, value: Any) -> bool:
        """Give up work: its future gets `value`, and its thread is replaced. Return False if too many are abandoned."""
        with self._lock:
            if work.is_finished or work.is_abandoned:
                return True
            if work.is_begun and self.abandoned >= self.count:
                return False
            work.is_abandoned = True
        self._in_work -= 1
        if work.is_begun:
            self.abandoned += 1
            self._threads -= 1
            self._start_missing()
        if not work.future.done():
            work.future.set_result((value, None))
        return True

    def close(self) -> None:
        """Release the threads. Work that waits is not begun."""
        with contextlib.suppress(queue.Empty):
            while True:
                work = self._waiting.get_nowait()
                if work is not None and not work.future.done():
                    work.future.cancel()
        for _ in range(self._threads):
            self._waiting.put(None)

    def _start_missing(self) -> None:
        if self._threads < min(self._in_work, self.count):
            self._threads += 1
            # A daemon, so that one that hangs does not keep the process from ending.
            threading.Thread(target=self._serve, name=f"predict_{self._threads}", daemon=True).start()

    def _serve(self) -> None:
        while (work := self._waiting.get()) is not None:
            with self._lock:
                if work.is_abandoned:
                    continue
                work.is_begun = True
            outcome = _call(work)
            with self._lock:
                work.is_finished = True
            with contextlib.suppress(RuntimeError):  # The event loop is closed: nobody waits any more.
                work.future.get_loop().call_soon_threadsafe(self._ended, work, outcome)
            if work.is_abandoned:
                return

    def _ended(self, work: Work, outcome: Outcome) -> None:
        if work.is_abandoned:
            self.abandoned -= 1
            return
        self._in_work -= 1
        if not work.future.done():
            work.future.set_result(outcome)


def _call(work: Work) -> Outcome:
    try:
        return work.function(work), None
    except BaseException as error:
        return None, error
