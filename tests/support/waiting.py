"""Wait for a condition with a deadline: one form for threads, one for the event loop."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.02
_ASYNC_POLL_SECONDS = 0.005


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


async def until_async(ready: Callable[[], Any], what: str, timeout_seconds: float = 20) -> Any:
    """Do the same in the event loop. `ready` may be a coroutine function."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = ready()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() >= deadline:
            raise NotInTime(f"not within {timeout_seconds} s: {what}")
        await asyncio.sleep(_ASYNC_POLL_SECONDS)
