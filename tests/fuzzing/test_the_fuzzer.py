"""The fuzzer itself finds what it is there to find, and says how to find it again."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from random import Random

import httpx2
import pytest
import structlog
from hypothesis import strategies as st
from tests.support import fuzzing
from tests.support.fuzz_gateway import MARKER, checked, fuzzed_gateway
from tests.support.fuzzing import check_level, drawn, fuzz
from tests.support.mutation import Mutator

log = structlog.get_logger()
_KEPT: list[bytes] = []
_TUPLES = st.tuples(st.sampled_from(["/a", "/b"]), st.lists(st.text(), max_size=3).map(lambda one: json.dumps(one).encode()))  # fmt: skip


@contextlib.asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


async def stands_still(_: None, examples: Sequence[int]) -> None:
    begun = time.process_time()
    while time.process_time() - begun < 0.4:
        pass


async def logs_a_failure(_: None, examples: Sequence[int]) -> None:
    try:
        raise ValueError("as it was told")
    except ValueError:
        log.exception("It failed", action="failed")


async def fails_in_a_task(_: None, examples: Sequence[int]) -> None:
    asyncio.get_running_loop().call_soon(int, "x")
    await asyncio.sleep(0)


async def grows(_: None, examples: Sequence[int]) -> None:
    await asyncio.sleep(0.2)  # As a real check does, so that few of them are made.
    _KEPT.append(b"x" * (20 * 1024 * 1024))


@pytest.mark.parametrize(
    ("check", "found"),
    [(stands_still, "stood still"), (logs_a_failure, "It failed"), (fails_in_a_task, "ValueError"), (grows, "MB more")],
)
def test_it_finds_a_fault(
    check: Callable[[None, Sequence[int]], Awaitable[None]], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 0.5)
    try:
        with pytest.raises(AssertionError, match=found):
            fuzz(nothing, st.integers(), check)
    finally:
        _KEPT.clear()


def test_it_says_which_example_fails_and_how_to_get_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails_of_one(_: None, examples: Sequence[int]) -> None:
        assert 7 not in examples

    monkeypatch.setenv("FUZZ_SEED", "11")
    with pytest.raises(AssertionError) as failed:
        fuzz(nothing, st.integers(7, 9), fails_of_one)
    assert "Examples: [7]" in failed.value.__notes__
    assert any("make fuzz SEED=11 ARGS='-k test_it_says_which" in note for note in failed.value.__notes__)


@pytest.mark.parametrize("last", [(160_000, 2**29), (101_000, 2**30)])
def test_it_finds_what_grows_from_round_to_round(last: tuple[int, int]) -> None:
    check_level([(100_000, 2**29), (103_000, 2**29 + 2**26)])
    with pytest.raises(AssertionError, match="more after 2 rounds"):
        check_level([(100_000, 2**29), (101_000, 2**29), last])


def test_the_same_seed_makes_the_same_examples() -> None:
    def made(first: int) -> list[bytes]:
        mutator = Mutator(drawn(st.binary(max_size=20), first), Random(first))
        return [mutator.make() for _ in range(200)]

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_most_of_what_was_json_stays_json_and_names_stay_valid() -> None:
    mutator = Mutator(drawn(_TUPLES, 1), Random(1))
    made = [mutator.make() for _ in range(1_000)]
    assert {path for path, _ in made} == {"/a", "/b"}
    assert len({body for _, body in made}) > 300
    broken = sum(not _is_json(body) for _, body in made)
    assert 10 < broken < 300


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "answer",
    [httpx2.Response(200, text=f"a {MARKER}"), httpx2.Response(200, headers={"X-Of": MARKER}), httpx2.Response(502)],
)
def test_it_finds_a_failure_and_a_byte_of_another_tenant(answer: httpx2.Response) -> None:
    with pytest.raises(AssertionError):
        checked(answer)


async def test_it_finds_a_job_that_was_accepted_and_is_lost(tmp_path: Path) -> None:
    async def lose_a_job() -> None:
        async with fuzzed_gateway(tmp_path) as gateway:
            await gateway.send_bodies([("/v1/jobs", b'{"input": 1}', "application/json")])
            gateway.accepted.add("lost")

    with pytest.raises(AssertionError, match="lost"):
        await lose_a_job()
