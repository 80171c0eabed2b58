"""Runs checks of strangers' data in processes of their own, so that no data can hold up, fill or end the service.

A parser and a validator hold the interpreter while they work, so a thread does not help. A process can be bounded in
processor time and memory, and killed.
"""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from anyio import BrokenResourceError, BrokenWorkerProcess, CapacityLimiter, to_process

from enginehouse.contracts.errors import Unavailable

T = TypeVar("T")

_AT_ONCE = 2
_MEMORY_BYTES = 768 * 1024 * 1024
"""Most memory of a process: JSON of 64 MiB takes up to about ten times its size, once it is parsed."""
_WAIT_SECONDS = 60.0
_IDLE_SECONDS = 120.0
"""A process that waits holds 25 MB, and to start one takes half a second of processor time."""
_NICE = 5
"""The service itself comes first when there are too few processors."""


class TooCostly(Exception):
    """A check was ended: it took more processor time or memory than it may."""


class Checkers:
    """Runs functions in a few bounded processes, which start when they are needed and end after two minutes without a check."""

    def __init__(
        self, at_once: int = _AT_ONCE, *, wait_seconds: float = _WAIT_SECONDS, idle_seconds: float = _IDLE_SECONDS
    ) -> None:
        """Run `at_once` checks at the same time; each must have ended `wait_seconds` after it was asked for.

        After `idle_seconds` without a check the processes end.
        """
        self._wait_seconds = wait_seconds
        self._idle_seconds = idle_seconds
        self._free = asyncio.Semaphore(at_once)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._idle = 0
        """Processes that wait for a check."""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    async def run(self, owner: str, cpu_seconds: float, check: Callable[..., T], *arguments: Any) -> T:
        """Return `check(*arguments)`, which must be a function of a module and take and return what pickle can carry.

        Checks for the same owner run one after the other, so no owner has all processes. Raise TooCostly after
        `cpu_seconds` of processor time, or where the check takes too much memory, and Unavailable on a machine that has
        no time for it.
        """
        turn = self._turns.setdefault(owner, asyncio.Lock())
        try:
            async with asyncio.timeout(self._wait_seconds), turn, self._free, self._one_process():
                return await _in_process(cpu_seconds, check, arguments)
        except TimeoutError:
            raise Unavailable(
                f"{check.__name__} did not end in {self._wait_seconds:g} s: too much is checked now"
            ) from None
        except (BrokenWorkerProcess, MemoryError):
            raise TooCostly(f"{check.__name__} took too much time or memory") from None

    @contextlib.asynccontextmanager
    async def _one_process(self) -> AsyncIterator[None]:
        """Count the process that checks in the block as idle before and after it, unless the block ends it."""
        self._idle = max(self._idle - 1, 0)
        is_over = False
        try:
            yield
        except (BrokenWorkerProcess, asyncio.CancelledError):
            is_over = True
            raise
        finally:
            self._idle += not is_over
            if self._idle_timer:
                self._idle_timer.cancel()
            self._idle_timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._end_idle)

    def _end_idle(self) -> None:
        self._ending = asyncio.create_task(self._end_idle_processes())

    async def _end_idle_processes(self) -> None:
        while self._idle:
            self._idle -= 1
            with contextlib.suppress(BrokenWorkerProcess):  # That is how it ends.
                await to_process.run_sync(os._exit, 0, cancellable=True, limiter=CapacityLimiter(1))


async def _in_process(cpu_seconds: float, check: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    async def run() -> T:
        # What bounds the processes is `Checkers`. The default limiter would be shared with all other work in processes.
        limiter = CapacityLimiter(1)
        return await to_process.run_sync(_bounded, cpu_seconds, check, arguments, cancellable=True, limiter=limiter)

    try:
        return await run()
    except BrokenWorkerProcess as error:
        if not isinstance(error.__cause__, BrokenResourceError):
            raise
        # The process did not take the check: it was ended while it was idle, perhaps by the machine for its memory.
        return await run()


def _bounded(cpu_seconds: float, check: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    _settle()
    # The default action of SIGPROF ends the process, also while native code runs.
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
        return check(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _settle() -> None:
    """Bound this process, once."""
    if resource.getrlimit(resource.RLIMIT_DATA)[0] == _MEMORY_BYTES:
        return
    with contextlib.suppress(OSError, ValueError):
        os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
