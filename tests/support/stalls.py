"""Measures how long an event loop does one thing only."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

LONGEST_STALL_SECONDS = 0.25


@contextlib.contextmanager
def watched_loop() -> Iterator[list[float]]:
    """Measure the longest time for which the event loop did one thing only. The list gets it at the end.

    It is time of the processors that this process used: how much others leave it is no matter of a test.
    """
    turns: list[float] = []

    async def watch() -> None:
        while True:
            began = time.process_time()
            await asyncio.sleep(0.002)
            turns.append(time.process_time() - began)

    longest: list[float] = []
    watching = asyncio.ensure_future(watch())
    try:
        yield longest
    finally:
        watching.cancel()
        longest.append(max(turns))
