"""Carry the events of a predict from its thread to the caller, and find its result among the yielded values."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pydantic_core

from enginehouse.engine.events import EVENTS, Event, as_line
from enginehouse.engine.plain import BadResult, plain

WAITING_MAX_BYTES = 1024 * 1024
"""Events beyond this size are dropped if the caller reads too slowly.

They are for people, and no job depends on them.
"""


_NOTHING = object()


class Canceled(Exception):
    """The prediction was canceled while it ran."""


class Lines:
    """Lines of JSON on their way to the caller.

    Only `put` may be called in any thread; the rest runs in the event loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._woken = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Queue an event for the caller. Raise BadResult if it cannot be JSON."""
        # Numbers that JSON does not know become null. In a result that would be an error, but events are not results.
        told = as_line(event)
        try:
            line = pydantic_core.to_json(told, inf_nan_mode="null") + b"\n"
        except pydantic_core.PydanticSerializationError:
            line = pydantic_core.to_json(plain(told, "event")) + b"\n"
        with self._lock:
            if len(self._waiting) + len(line) > WAITING_MAX_BYTES:
                return
            first = not self._waiting
            self._waiting += line
        if first:
            self._loop.call_soon_threadsafe(self._woken.set)

    def close(self) -> None:
        """End the lines. No event comes after this."""
        self._closed = True
        self._woken.set()

    async def take(self) -> bytes:
        """Wait for new lines and return them. Return nothing when all lines are taken and closed."""
        while True:
            await self._woken.wait()
            if not self._closed:
                self._woken.clear()
            with self._lock:
                lines = bytes(self._waiting)
                self._waiting.clear()
            if lines or self._closed:
                return lines


class _Result:
    """Separates the events from the one result among the values that a predict yields."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._value: Any = _NOTHING

    def take(self, step: Any) -> None:
        """Take one yielded value."""
        if self._value is not _NOTHING:
            raise BadResult("predict yielded a value after its result; wrap the earlier values in Output(…)")
        if isinstance(step, EVENTS):
            self._lines.put(step)
        else:
            self._value = step

    def end(self, returned: Any = None) -> Any:
        """Return the result."""
        if returned is not None:
            self.take(returned)
        if self._value is _NOTHING or isinstance(returned, EVENTS):
            raise BadResult("predict ended without a result")
        return self._value


def drain(steps: Generator[Any, None, Any], lines: Lines, canceled: Callable[[], bool]) -> Any:
    """Run a generator to its end and return its result. It can be canceled at each step."""
    result = _Result(lines)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return result.end(end.value)
        if canceled():
            steps.close()
            raise Canceled
        result.take(step)


async def drain_async(steps: AsyncGenerator[Any, None], lines: Lines) -> Any:
    """Run an asynchronous generator to its end and return its result."""
    result = _Result(lines)
    try:
        async for step in steps:
            result.take(step)
    finally:
        await steps.aclose()
    return result.end()
