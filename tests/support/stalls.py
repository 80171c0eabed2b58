"""Measures how long an event loop does one thing only."""

import asyncio
import contextlib
import gc
import time
from collections.abc import Iterator

LONGEST_STALL_SECONDS = 0.25


@contextlib.contextmanager
def watched_loop() -> Iterator[list[float]]:
    """Measure the longest time for which the event loop did one thing only. The list gets it at the end.

    It is time of the processors that this process used: how much others leave it is no matter of a test. It includes
    threads that keep the loop waiting; those that let it go on do not matter, because it then turns meanwhile. What
    earlier tests left in memory is kept from the garbage collector, which would look at all of it again.
    """
    gc.freeze()
    worst, last = 0.0, time.process_time()

    async def watch() -> None:
        nonlocal worst, last
        while True:
            await asyncio.sleep(0.002)
            now = time.process_time()
            worst, last = max(worst, now - last), now

    longest: list[float] = []
    watching = asyncio.ensure_future(watch())
    try:
        yield longest
    finally:
        watching.cancel()
        gc.unfreeze()
        longest.append(max(worst, time.process_time() - last))
