"""An answer that goes on for ever obeys the execution clock, and meanwhile the runner attends to its other jobs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from tests.support.break_ins import attempt
from tests.support.runner import World, runner_world
from tests.support.stalls import LONGEST_STALL_SECONDS, watched_loop

from enginehouse.contracts.job import Status

FLOODS = {
    "empty lines": b"\n" * 65_536,
    "blank lines": b" \t\r\n" * 16_384,
    "empty objects": b"{}\n" * 20_000,
    "lines without a meaning": b'{"x": 1}\n' * 8_000,
    "logs": b'{"log": "x"}\n' * 5_000,
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


def answering(content_type: str, part: bytes, pause: float) -> object:
    async def predict(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        while True:
            await response.write(part)
            await asyncio.sleep(pause)

    return predict


@attempt("floods its runner with lines of a stream", layer="bounded lines, off the event loop")
@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_of_lines_obeys_the_clock_and_stalls_nobody(world: World, flood: str) -> None:
    world.engine.predict = answering("application/x-ndjson", FLOODS[flood], 0)  # type: ignore[assignment]
    with watched_loop() as longest:
        assert (await asyncio.wait_for(world.run(seconds=0.5), 30)).status is Status.TIMED_OUT
    assert longest[0] < LONGEST_STALL_SECONDS


@attempt("answers byte by byte for ever", layer="the execution clock")
@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("part", [b" ", b"\n", b'{"progress": 1'])
async def test_a_trickle_obeys_the_clock(world: World, content_type: str, part: bytes) -> None:
    world.engine.predict = answering(content_type, part, 0.01)  # type: ignore[assignment]
    assert (await asyncio.wait_for(world.run(seconds=0.5), 30)).status is Status.TIMED_OUT
