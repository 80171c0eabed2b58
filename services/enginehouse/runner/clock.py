"""The execution clock of one call: how much time the engine has for it, and how much it took."""

import asyncio


class Clock:
    """Runs from `running()` on. A client that lets a call wait for others holds it until the call goes out."""

    __slots__ = ("_begun", "_limit", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """The whole time that the engine has."""
        self._begun = 0.0
        self._limit: asyncio.Timeout | None = None

    def running(self) -> asyncio.Timeout:
        """Start the clock for the length of an `async with`, which raises TimeoutError when the time is over."""
        self._begun = asyncio.get_running_loop().time()
        self._limit = asyncio.timeout(self.seconds)
        return self._limit

    def hold(self) -> None:
        """Let no time pass until `start`."""
        if self._limit is not None:
            self._limit.reschedule(None)

    def start(self) -> None:
        """Start again from zero: the call goes out now."""
        self._begun = asyncio.get_running_loop().time()
        if self._limit is not None:
            self._limit.reschedule(self._begun + self.seconds)

    @property
    def elapsed(self) -> float:
        """Seconds since the call went out."""
        return asyncio.get_running_loop().time() - self._begun
