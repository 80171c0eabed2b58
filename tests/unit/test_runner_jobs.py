"""Jobs while they run: claimed, watched, joined, canceled, and never more at once than there are places."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.runner import STORE, Gate, World, begin, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.runner.pace import DEFAULT_PACE


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


async def test_a_longer_job_is_claimed_and_announced(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    record = await world.running(job_id)
    assert (record.attempt, record.worker) == (1, "worker-1")
    await until_async(lambda: world.completions(job_id) == ["running"])
    gate.open.set()
    assert await delivery
    assert world.record(job_id).status is Status.SUCCEEDED
    assert world.completions(job_id) == ["running", "succeeded"]


async def test_a_second_delivery_joins_the_first(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    deliveries = [begin(world, job_id), begin(world, job_id, attempt=2), begin(world, job_id)]
    await world.running(job_id)
    gate.open.set()
    assert await asyncio.gather(*deliveries) == [True, True, True]
    assert gate.entered == 1
    assert world.runner.receiver.in_hand == []


async def test_a_canceled_job_is_closed_and_its_engine_told(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    await world.running(job_id)
    await world.write(job_id, JobRecord(status=Status.CANCELED, finished_at=now()))
    assert await delivery
    assert world.record(job_id).status is Status.CANCELED
    await until_async(lambda: world.engine.canceled == [job_id])
    await until_async(lambda: gate.closed == 1)
    assert "canceled" not in world.completions(job_id)


async def test_a_job_canceled_before_its_claim_is_closed(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    await world.write(job_id, JobRecord(status=Status.CANCELED, finished_at=now()))
    assert await begin(world, job_id)
    await until_async(lambda: gate.closed == 1)
    assert world.record(job_id).status is Status.CANCELED


async def test_a_fast_result_never_overwrites_a_final_record(world: World) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, JobRecord(status=Status.CANCELED, finished_at=now()))
    assert await world.runner.receiver.deliver(world.event(job_id))
    assert world.record(job_id).status is Status.CANCELED
    assert world.completions(job_id) == []


async def test_a_job_canceled_while_it_waits_for_a_place_does_not_reach_its_engine(world: World) -> None:
    gate = Gate(world)
    running = [begin(world, names.new_job_id()) for _ in range(2)]
    await until_async(lambda: gate.entered == 2)
    job_id = names.new_job_id()
    waiting = begin(world, job_id)
    await until_async(lambda: world.runner.pool._waiting)
    await asyncio.sleep(2 * DEFAULT_PACE.look_again_seconds)
    await world.write(job_id, JobRecord(status=Status.CANCELED, finished_at=now()))
    gate.open.set()
    assert await asyncio.gather(*running, waiting) == [True] * 3
    assert gate.entered == 2
    assert world.record(job_id).status is Status.CANCELED
    assert world.runner.pool.replicas[0].places_taken == 0


async def test_a_job_that_gets_a_place_at_once_is_not_read_before(tmp_path: Path) -> None:
    async with runner_world(tmp_path, claim_after_seconds=60) as world:
        assert (await world.run()).status is Status.SUCCEEDED
        assert [key for key in world.runners_sidecar.keys_read if names.is_job_id(key)] == []


async def test_a_claim_that_cannot_be_written_is_written_later(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    world.dapr.fail("create", on=job_id, times=2)
    delivery = begin(world, job_id)
    await world.running(job_id)
    gate.open.set()
    assert await delivery
    assert gate.entered == 1


async def test_a_record_that_went_missing_is_claimed_again(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    await world.running(job_id)
    world.dapr.stores[STORE].clear()
    await world.running(job_id)
    gate.open.set()
    assert await delivery
    assert world.record(job_id).status is Status.SUCCEEDED


async def test_trouble_while_watching_ends_no_job(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    await world.running(job_id)
    world.dapr.fail("read_many", on=job_id, times=3)
    await until_async(lambda: not world.dapr.failures["read_many"])
    gate.open.set()
    assert await delivery
    assert world.record(job_id).status is Status.SUCCEEDED


async def test_no_more_than_the_places_run_at_once(world: World) -> None:
    gate = Gate(world)
    deliveries = [begin(world, names.new_job_id()) for _ in range(5)]
    await until_async(lambda: gate.entered == 2)
    assert len(world.runner.receiver.in_hand) == 5
    gate.open.set()
    assert await asyncio.gather(*deliveries) == [True] * 5
    assert gate.entered == 5
