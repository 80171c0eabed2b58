"""How an attempt that has ended is settled: record, then completion, then acknowledgement, whatever fails."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from tests.support.clocks import Clocks
from tests.support.runner import STORE, Gate, World, begin, fails, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.containers import CONTAINERS_FOLDER, IMAGE_FILE, out_of_memory_file
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.events import JOB_COMPLETED
from enginehouse.contracts.job import RetryPolicy, Status
from enginehouse.contracts.moments import now


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A runner that claims no job while its engine works, so that each write and completion is of an end."""
    async with runner_world(tmp_path, claim_after_seconds=60) as made:
        yield made


async def test_the_first_attempt_takes_one_write_and_one_completion(world: World) -> None:
    # A starting runner also publishes its card's announcement and writes its name in the list of workers.
    await until_async(
        lambda: world.dapr.published[names.COMPLETIONS_TOPIC] and names.WORKERS_KEY in world.dapr.stores[STORE]
    )
    before = world.dapr.calls.copy()
    job_id = names.new_job_id()
    assert await world.runner.receiver.deliver(world.event(job_id))
    done = world.dapr.calls - before
    assert (done["create"], done["replace"], done["publish"]) == (1, 0, 1)
    assert world.completions(job_id) == ["succeeded"]


async def test_the_record_is_written_before_the_completion(world: World) -> None:
    seen: list[Status] = []

    async def on_completion(event: bytes) -> bool:
        seen.append(world.record(json.loads(event)["subject"]).status)
        return True

    world.dapr.subscribe(names.COMPLETIONS_TOPIC, on_completion)
    await world.run()
    await until_async(lambda: seen == [Status.SUCCEEDED])


async def test_a_result_is_kept_in_hand_until_it_can_be_written(world: World) -> None:
    job_id = names.new_job_id()
    world.dapr.fail("create", on=job_id, times=3)
    assert await world.runner.receiver.deliver(world.event(job_id))
    assert world.record(job_id).status is Status.SUCCEEDED
    assert len(world.engine.calls) == 1


async def test_a_write_whose_answer_was_lost_counts(world: World) -> None:
    world.dapr.fail("create", Unavailable("late"), after_doing=True)
    record = await world.run()
    assert record.status is Status.SUCCEEDED
    assert len(world.engine.calls) == 1


async def test_a_completion_that_cannot_be_published_loses_nothing(world: World) -> None:
    world.dapr.fail("publish", on=names.COMPLETIONS_TOPIC, times=10)
    assert (await world.run()).status is Status.SUCCEEDED


async def test_jobs_that_end_while_a_hint_is_on_its_way_share_the_next_one(world: World) -> None:
    await until_async(lambda: world.dapr.published[names.COMPLETIONS_TOPIC])
    world.dapr.fail("publish", on=names.COMPLETIONS_TOPIC, times=3)
    job_ids = [names.new_job_id() for _ in range(5)]
    assert all(await asyncio.gather(*(world.runner.receiver.deliver(world.event(job_id)) for job_id in job_ids)))
    events = map(json.loads, world.dapr.published[names.COMPLETIONS_TOPIC])
    hints = [[event["subject"], *event["data"].get("also", ())] for event in events if event["type"] == JOB_COMPLETED]
    assert [len(hint) for hint in hints] == [1, 4]
    assert sorted(hints[0] + hints[1]) == sorted(job_ids)


async def test_a_failure_waits_longer_each_time_and_ends_dead_lettered(world: World) -> None:
    world.engine.predict = fails
    job_id, retry = names.new_job_id(), RetryPolicy(max_attempts=4, initial_delay_ms=1000, max_delay_ms=3000)
    for attempt, (least, most) in enumerate([(0.5, 1), (1, 2), (1.5, 3)], start=1):
        before = now()
        assert await world.runner.receiver.deliver(world.event(job_id, attempt=attempt, retry=retry))
        record = world.record(job_id)
        assert (record.status, record.attempt) == (Status.QUEUED, attempt)
        assert record.retry_at is not None
        assert record.started_at is not None
        assert least <= (record.retry_at - before).total_seconds()
        assert (record.retry_at - now()).total_seconds() <= most
    assert await world.runner.receiver.deliver(world.event(job_id, attempt=4, retry=retry))
    record = world.record(job_id)
    assert (record.status, record.attempt, record.dead_lettered) == (Status.FAILED, 4, True)
    assert record.error is not None
    assert record.error.code == "PREDICT_ERROR"
    assert world.completions(job_id) == ["queued", "queued", "queued", "failed"]


async def test_an_engine_that_closes_the_connection_has_failed(world: World) -> None:
    async def dies(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    world.engine.predict = dies
    record = await world.run()
    assert (record.status, record.attempt) == (Status.QUEUED, 1)
    assert record.error is not None
    assert "closed the connection" in record.error.message


async def test_a_job_names_the_image_that_ran_it_and_that_memory_was_refused_to_it(
    world: World, tmp_path: Path
) -> None:
    told = tmp_path / CONTAINERS_FOLDER
    told.mkdir()
    (told / IMAGE_FILE).write_text("sha256:abc")
    refused = told / out_of_memory_file(world.runner.pool.replicas[0].client.address)
    refused.write_text("1.5")  # Long ago: another job's.

    async def loses_a_child(request: web.Request) -> web.Response:
        refused.write_text(str(time.time()))
        return web.Response(status=500)

    world.engine.predict = fails
    record = await world.run()
    assert (record.image, record.error and "memory" in record.error.message) == ("sha256:abc", False)
    world.engine.predict = loses_a_child
    record = await world.run()
    assert record.error is not None
    assert "wanted more memory than the 512 MiB that resources.memory in engine.yaml allows" in record.error.message


async def test_a_job_out_of_time_is_timed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with runner_world(tmp_path) as world:
        gate, clocks = Gate(world), Clocks(monkeypatch)
        job_id = names.new_job_id()
        delivery = begin(world, job_id)
        await until_async(lambda: gate.entered == 1)
        await world.running(job_id)
        clocks.run_out()
        assert await delivery
        record = world.record(job_id)
        assert (record.status, record.dead_lettered) == (Status.TIMED_OUT, False)
        assert record.error is not None
        assert record.error.code == "PREDICT_TIMEOUT"
        await until_async(lambda: gate.closed == 1)


async def test_a_timeout_is_tried_again_only_on_request(world: World) -> None:
    Gate(world)
    assert (await world.run(seconds=0.05, retry_on_timeout=True)).status is Status.QUEUED
    record = await world.run(seconds=0.05, retry_on_timeout=True, max_attempts=1)
    assert (record.status, record.dead_lettered) == (Status.TIMED_OUT, True)
