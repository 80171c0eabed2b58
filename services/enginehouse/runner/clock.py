"""The execution clock of one call: how long an engine may take for it, and how long it took."""

import asyncio


class Clock:
    """Runs from `running()` on. A client that lets a call wait for others holds it until the call goes out."""

    __slots__ = ("_begun", "_limit", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._begun = 0.0
        self._limit: asyncio.Timeout | None = None

    def running(self) -> asyncio.Timeout:
        """For `async with`: TimeoutError once the time is over."""
        self._begun = asyncio.get_running_loop().time()
        self._limit = asyncio.timeout(self.seconds)
        return self._limit

    def hold(self) -> None:
        """No time passes until `start`."""
        if self._limit is not None:
            self._limit.reschedule(None)

    def start(self) -> None:
        """The call goes out now, with the whole time before it."""
        self._begun = asyncio.get_running_loop().time()
        if self._limit is not None:
            self._limit.reschedule(self._begun + self.seconds)

    @property
    def elapsed(self) -> float:
        """Seconds since the call went out."""
        return asyncio.get_running_loop().time() - self._begun
