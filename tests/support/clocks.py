"""Execution clocks that run out when a test says so, and not because the machine is slow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from enginehouse.runner import execute
from enginehouse.runner.clock import Clock


class _ToldClock(Clock):
    """A clock whose time is over when `run_out` says so."""

    __slots__ = ("_is_over",)

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self._is_over = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with super().running():
            self._end_at(self._begun + self.seconds)
            yield

    def run_out(self) -> None:
        """End the time now, or once the clock is no longer held."""
        self._is_over = True
        if self._held_at is None:
            self._end_at(self._begun + self.seconds)

    def _end_at(self, moment: float | None) -> None:
        now = asyncio.get_running_loop().time()
        super()._end_at(now if self._is_over and moment is not None else None)


class Clocks:
    """The execution clocks of the runners in a test, from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._made: list[_ToldClock] = []
        monkeypatch.setattr(execute, "Clock", self._make)

    def _make(self, seconds: float) -> Clock:
        self._made.append(_ToldClock(seconds))
        return self._made[-1]

    def run_out(self) -> None:
        """End the time of each call that is out. A call whose clock is held ends as soon as it goes on."""
        for clock in self._made:
            clock.run_out()
        self._made.clear()
