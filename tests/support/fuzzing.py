"""Fuzzing in bounded time: random examples for some seconds, none of which may stall the loop, grow the process or be logged as a failure."""

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, TypeVar

import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from structlog.testing import capture_logs
from tests.support.stalls import LONGEST_STALL_SECONDS, watched_loop

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
"""How long each fuzzer runs. The variable makes them run longer."""
_LEAST_EXAMPLES = 25
"""A busy machine gets longer for these."""
GROWTH_BYTES = 32 * 1024 * 1024
"""More than caches and the allocator's reserves take, and far less than any leak of these many examples."""
_REPLAYED, _REPLAYS = 60, 4
"""How many of the first examples come again at the end, and how often."""

W = TypeVar("W")
X = TypeVar("X")


class Stalled(AssertionError):
    """The loop stood still while an example was checked."""


def fuzz(
    world: Callable[[], AbstractAsyncContextManager[W]],
    examples: SearchStrategy[X],
    check: Callable[[W, X], Awaitable[None]],
) -> None:
    """Check random examples in one world until the time is over.

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
            async with asyncio.timeout(30):
                with watched_loop() as longest:
                    await check(made, example)
            if longest[0] >= LONGEST_STALL_SECONDS:
                raise Stalled(f"the loop stood still for {longest[0]:.2f} s")
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
            if time.monotonic() > deadline and checked >= _LEAST_EXAMPLES and not has_failed:
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


class _Over(BaseException):
    """The time is over. Hypothesis passes it on, because it is no failure of the example."""
