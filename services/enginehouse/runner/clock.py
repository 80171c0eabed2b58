"""The execution clock of one call: how much time the engine has for it, and how much it took."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Clock:
    """Runs from `running()` on. A client holds it while a call waits for others, and while it reads an answer."""

    __slots__ = ("_begun", "_held_at", "_limit", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """The whole time that the engine has."""
        self._begun = 0.0
        self._held_at: float | None = None
        self._limit: asyncio.Timeout | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the clock for the length of an `async with`, which raises TimeoutError when the time is over."""
        self.start()
        async with asyncio.timeout(self.seconds) as self._limit:
            try:
                yield
            finally:
                self._limit = None

    def hold(self) -> None:
        """Let no time pass until `start` or `go_on`, or ever."""
        self._held_at = asyncio.get_running_loop().time()
        self._end_at(None)

    def start(self) -> None:
        """Start again from zero: the call goes out now."""
        self._begun = asyncio.get_running_loop().time()
        self.go_on()

    def go_on(self) -> None:
        """Go on as if the clock had not been held: what has arrived is no answer."""
        self._held_at = None
        self._end_at(self._begun + self.seconds)

    @property
    def elapsed(self) -> float:
        """Seconds since the call went out, up to the moment at which the clock was held."""
        end = asyncio.get_running_loop().time() if self._held_at is None else self._held_at
        return end - self._begun

    def _end_at(self, moment: float | None) -> None:
        # One call may answer jobs of which some were canceled or ran out of time.
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(moment)
