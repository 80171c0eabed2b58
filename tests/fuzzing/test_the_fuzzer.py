"""The fuzzer itself finds what it is there to find."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import structlog
from hypothesis import strategies as st
from tests.support import fuzzing
from tests.support.fuzzing import fuzz

log = structlog.get_logger()
_KEPT: list[bytes] = []


@contextlib.asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


async def stands_still(_: None, example: int) -> None:
    begun = time.process_time()
    while time.process_time() - begun < 0.4:
        pass


async def logs_a_failure(_: None, example: int) -> None:
    try:
        raise ValueError("as it was told")
    except ValueError:
        log.exception("It failed", action="failed")


async def fails_in_a_task(_: None, example: int) -> None:
    asyncio.get_running_loop().call_soon(int, "x")
    await asyncio.sleep(0)


async def grows(_: None, example: int) -> None:
    _KEPT.append(b"x" * (4 * 1024 * 1024))


@pytest.mark.parametrize(
    ("check", "found"),
    [(stands_still, "stood still"), (logs_a_failure, "It failed"), (fails_in_a_task, "ValueError"), (grows, "MB more")],
)
def test_it_finds_a_fault(
    check: Callable[[None, int], Awaitable[None]], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    try:
        with pytest.raises(AssertionError, match=found):
            fuzz(nothing, st.integers(), check)
    finally:
        _KEPT.clear()
