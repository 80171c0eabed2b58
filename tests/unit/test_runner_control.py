"""While the gateway has stopped an engine, its runner begins no jobs, ends running ones, and counts no attempt."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.runner import STORE, Gate, World, begin, patient_batch, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.job import Status
from enginehouse.runner.pace import Pace
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar

SOON = Pace(control_poll_seconds=0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path, concurrency=1, hand_back_after_seconds=30, pace=SOON) as made:
        yield made


async def set_stopped(dapr: FakeDapr, stopped: bool) -> None:
    value = json.dumps({"stopped": stopped}).encode()
    await FakeSidecar(dapr, "gateway").put(STORE, names.CONTROL_KEY, value)


async def test_what_runs_ends_and_what_waits_goes_back(world: World) -> None:
    gate = Gate(world)
    running, waiting = names.new_job_id(), names.new_job_id()
    deliveries = [begin(world, running), begin(world, waiting)]
    await until_async(lambda: gate.entered == 1)
    await set_stopped(world.dapr, True)
    await until_async(lambda: world.find(waiting))
    assert (world.record(waiting).status, world.record(waiting).attempt) == (Status.QUEUED, 0)
    assert world.runner.ready()
    gate.open.set()
    assert await asyncio.gather(*deliveries) == [True, True]
    assert world.record(running).status is Status.SUCCEEDED


async def test_what_is_delivered_meanwhile_goes_back_and_runs_once_it_goes_on(world: World) -> None:
    await set_stopped(world.dapr, True)
    await until_async(lambda: world.runner.receiver.stopped)
    job_id = names.new_job_id()
    assert await begin(world, job_id)
    assert (world.record(job_id).status, world.record(job_id).attempt) == (Status.QUEUED, 0)
    assert world.engine.calls == []
    await set_stopped(world.dapr, False)
    await until_async(lambda: not world.runner.receiver.stopped)
    assert await begin(world, job_id)
    assert world.record(job_id).status is Status.SUCCEEDED


async def test_a_runner_that_starts_while_its_engine_is_stopped_begins_nothing(tmp_path: Path, world: World) -> None:
    await set_stopped(world.dapr, True)
    async with runner_world(tmp_path, dapr=world.dapr, worker="worker-2", pace=SOON) as second:
        job_id = names.new_job_id()
        assert await begin(second, job_id)
        assert (second.record(job_id).status, second.record(job_id).attempt) == (Status.QUEUED, 0)
        assert second.engine.calls == []


async def test_a_store_that_does_not_answer_changes_nothing(world: World) -> None:
    reads = world.dapr.calls["read"]
    world.dapr.fail("read", on=names.CONTROL_KEY, times=5)
    await until_async(lambda: world.dapr.calls["read"] > reads + 5)
    assert world.runner.ready()


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"stopped": "yes"}'])
async def test_nonsense_stops_nothing(world: World, value: bytes) -> None:
    await FakeSidecar(world.dapr, "gateway").put(STORE, names.CONTROL_KEY, value)
    reads = world.dapr.calls["read"]
    await until_async(lambda: world.dapr.calls["read"] > reads + 2)
    assert world.runner.ready()


async def test_what_gathers_for_a_batch_has_not_begun(tmp_path: Path) -> None:
    async with runner_world(tmp_path, concurrency=1, batch=patient_batch(8), pace=SOON) as world:
        deliveries = [begin(world, names.new_job_id()) for _ in range(2)]
        await until_async(lambda: world.runner.pool.replicas[0].places_taken == 2)
        await set_stopped(world.dapr, True)
        assert await asyncio.gather(*deliveries) == [True, True]
        assert (world.engine.batches, world.engine.calls) == ([], [])
