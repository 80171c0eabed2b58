"""Wait for a condition with a deadline: `until` in a thread, `until_async` in the event loop."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.05


class NotInTime(AssertionError):
    """The condition did not become true in time."""


def until(ready: Callable[[], T | None], what: str, timeout_seconds: float = 30) -> T:
    """Wait until `ready` returns something true, and return it. Raise NotInTime with `what` after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := ready()):
        if time.monotonic() >= deadline:
            raise NotInTime(f"not within {timeout_seconds} s: {what}")
        time.sleep(_POLL_SECONDS)
    return value


async def until_async(
    ready: Callable[[], Any],
    what: str = "the condition holds",
    timeout_seconds: float = 20,
    *,
    poll_seconds: float = 0.002,
) -> Any:
    """Wait in the event loop until `ready`, which may be a coroutine function, returns something true, and return it.

    Raise NotInTime with `what` after the timeout. The pause between two looks is short, because most conditions are
    fields in memory; give a longer one where a look is a request.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = ready()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() >= deadline:
            raise NotInTime(f"not within {timeout_seconds} s: {what}")
        await asyncio.sleep(poll_seconds)
