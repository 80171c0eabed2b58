"""Fuzzing in bounded time: random examples for some seconds, none of which may stall the loop, grow the process or be logged as a failure."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeVar

import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from structlog.testing import capture_logs

SECONDS = float(os.environ.get("FUZZ_SECONDS", "8"))
"""How long each fuzzer runs. The variable makes them run longer."""
STALL_SECONDS = 0.25
GROWTH_BYTES = 32 * 1024 * 1024
"""More than caches and the allocator's reserves take, and far less than any leak of these many examples."""
_TICK_SECONDS = 0.005
_REPLAYED, _REPLAYS = 60, 4
"""How many of the first examples come again at the end, and how often."""

W = TypeVar("W")
X = TypeVar("X")


class Stalled(AssertionError):
    """The loop stood still while an example was checked."""


@asynccontextmanager
async def without_stall() -> AsyncIterator[None]:
    """Fail if the loop computes for longer than STALL_SECONDS without a pause.

    The time is that of the processor, so that other load on this machine is no stall. It includes threads that keep the
    loop waiting; those that let it go on do not matter, because the loop then ticks meanwhile.
    """
    worst, last = 0.0, time.process_time()
    over = asyncio.Event()

    async def tick() -> None:
        nonlocal worst, last
        while not over.is_set():
            await asyncio.sleep(_TICK_SECONDS)
            now = time.process_time()
            worst, last = max(worst, now - last), now

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        worst = max(worst, time.process_time() - last)
        over.set()
        await ticking
    if worst >= STALL_SECONDS:
        raise Stalled(f"the loop stood still for {worst:.2f} s")


def fuzz(
    world: Callable[[], AbstractAsyncContextManager[W]],
    examples: SearchStrategy[X],
    check: Callable[[W, X], Awaitable[None]],
) -> int:
    """Check random examples in one world until the time is over, and return how many.

    Nothing may be logged as an error, and the memory of the process must stay flat.
    """
    process, checked, deadline = psutil.Process(), 0, 0.0
    kept: list[X] = []
    failures: list[dict[str, Any]] = []
    has_failed = False

    with asyncio.Runner() as runner, capture_logs() as logs:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        opened = world()
        made = runner.run(opened.__aenter__())

        async def bounded(example: X) -> None:
            async with asyncio.timeout(30), without_stall():
                await check(made, example)
            errors = [entry for entry in logs if entry["log_level"] in ("error", "critical") or entry.get("exc_info")]
            logs.clear()
            assert not errors, errors[0]

        @settings(
            max_examples=1_000_000,
            deadline=None,
            database=None,
            # Without making a failing example smaller, which takes minutes.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(examples)
        def one(example: X) -> None:
            nonlocal checked, deadline, has_failed
            deadline = deadline or time.monotonic() + SECONDS
            # Hypothesis runs an example that failed once more.
            if time.monotonic() > deadline and not has_failed:
                raise _Over
            try:
                try:
                    runner.run(bounded(example))
                except Stalled:
                    # What is done once, such as writing the OpenAPI document, is no fault of an example.
                    runner.run(bounded(example))
            except BaseException:
                has_failed = True
                raise
            checked += 1
            if len(kept) < _REPLAYED:
                kept.append(example)

        try:
            with suppress(_Over):
                one()
            # Hypothesis remembers all examples, so what the world keeps is only seen when some come again.
            held = []
            for _ in range(_REPLAYS):
                for example in kept:
                    runner.run(bounded(example))
                gc.collect()
                held.append(process.memory_info().rss)
        finally:
            runner.run(opened.__aexit__(None, None, None))
    assert not failures, failures[0]
    growth = held[-1] - held[0]
    assert growth < GROWTH_BYTES, f"{growth / 1024 / 1024:.0f} MB more after {len(kept) * (_REPLAYS - 1)} examples"
    return checked


class _Over(BaseException):
    """The time is over. Hypothesis passes it on, because it is no failure of the example."""
