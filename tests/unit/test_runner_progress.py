"""The lines that an engine streams are published in order, before the job's end, within bounds, without delaying it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.runner import World, runner_world

from enginehouse.contracts import names
from enginehouse.contracts.events import JOB_COMPLETED, JOB_PROGRESS, PROGRESS_EVENTS_MAX
from enginehouse.contracts.job import Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


def streaming(world: World, *lines: Any) -> None:
    async def predict(_: web.Request) -> web.StreamResponse:
        body = "".join(json.dumps(line) + "\n" for line in lines)
        return web.Response(text=body, headers={"Content-Type": "application/x-ndjson"})

    world.engine.predict = predict


def published(world: World) -> list[dict[str, Any]]:
    events = [json.loads(event) for event in world.dapr.published[names.COMPLETIONS_TOPIC]]
    return [event for event in events if event["type"] in (JOB_PROGRESS, JOB_COMPLETED)]


async def test_lines_are_told_in_order_and_before_the_end(world: World) -> None:
    streaming(world, {"log": "begun"}, {"metric": {"a": 1}, "output": [1]}, {"progress": 0.5}, {"result": 7})
    assert (await world.run()).output == 7
    *lines, end = published(world)
    assert end["type"] == JOB_COMPLETED
    assert [(line["data"]["kind"], line["data"]["value"]) for line in lines] == [
        ("log", "begun"),
        ("output", [1]),
        ("metric", {"a": 1}),
        ("progress", 0.5),
    ]
    sequences = [line["data"]["sequence"] for line in lines]
    assert sequences == sorted(set(sequences))
    assert len({line["id"] for line in lines}) == 4


async def test_of_progress_that_nobody_has_seen_the_latest_counts(world: World) -> None:
    streaming(world, *({"progress": done / 100} for done in range(100)), {"result": 1})
    await world.run()
    lines = published(world)[:-1]
    assert lines[-1]["data"]["value"] == 0.99
    assert len(lines) < 100


async def test_a_stream_may_end_in_a_refusal_or_a_failure(world: World) -> None:
    streaming(world, {"log": "begun"}, {"error": {"message": "too blurry", "retryable": False}})
    refused = await world.run()
    assert refused.error is not None
    assert (refused.status, refused.error.code, refused.error.message) == (
        Status.FAILED,
        "INVALID_INPUT",
        "too blurry",
    )
    streaming(world, {"log": "begun"}, {"error": {"message": "no memory", "retryable": True}})
    failed = await world.run()
    assert (failed.status, failed.attempt) == (Status.QUEUED, 1)


async def test_a_flood_is_dropped_and_the_job_succeeds(world: World) -> None:
    streaming(world, *({"log": number} for number in range(20_000)), {"log": "x" * 20_000}, {"result": 1})
    assert (await world.run()).status is Status.SUCCEEDED
    assert 0 < len(published(world)) - 1 <= PROGRESS_EVENTS_MAX


async def test_other_lines_are_no_harm(world: World) -> None:
    streaming(world, 5, [], {"other": 1}, "", {"result": 1})
    assert (await world.run()).status is Status.SUCCEEDED
    assert len(published(world)) == 1


async def test_trouble_with_telling_is_no_trouble_of_the_job(world: World) -> None:
    world.dapr.fail("publish_many", times=5)
    streaming(world, {"log": "begun"}, {"result": 1})
    assert (await world.run()).status is Status.SUCCEEDED
