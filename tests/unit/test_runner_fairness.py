"""Tenants take turns at a shared engine's places."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.runner import Gate, World, runner_world
from tests.support.steps import Steps, finish, records_of, wait_in_line
from tests.support.waiting import until_async

from enginehouse.contracts.job import Status
from enginehouse.runner.pace import Pace
from enginehouse.runner.tenants import Asker

PLACES = 2


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path, concurrency=PLACES) as made:
        yield made


async def test_a_job_waits_for_one_place_however_many_jobs_of_another_tenant_wait(world: World) -> None:
    steps = Steps(world)
    tasks = await wait_in_line(world, "umbra", 60)
    await until_async(lambda: len(steps.begun) == PLACES)
    tasks += await wait_in_line(world, "acme", 1)
    await steps.end_one()
    assert steps.begun == ["umbra", "umbra", "acme"]
    await finish(steps, tasks)


async def test_places_are_shared_as_the_weights_say(tmp_path: Path) -> None:
    async with runner_world(tmp_path, concurrency=4) as world:
        steps = Steps(world)
        tasks = await wait_in_line(world, "bronze", 30)
        tasks += await wait_in_line(world, "gold", 30, weight=3)
        await until_async(lambda: len(steps.begun) == 4)
        for _ in range(28):
            await steps.end_one()
        assert steps.begun[4:].count("gold") in (21, 22, 23)
        # From the moment at which the first jobs have ended, each four in a row are of both.
        assert all(steps.begun[at : at + 4].count("gold") == 3 for at in range(8, 28))
        await finish(steps, tasks)


async def test_a_tenants_own_jobs_begin_in_the_order_in_which_they_came(world: World) -> None:
    steps = Steps(world)
    tasks: list[asyncio.Task[bool]] = []
    for number in range(8):
        tasks += await wait_in_line(world, "acme", 1, data=number)
    await until_async(lambda: len(steps.begun) == PLACES)
    for _ in range(6):
        await steps.end_one()
    assert set(steps.begun[:PLACES]) == {0, 1}, "they found a place at once"
    assert steps.begun[PLACES:] == list(range(PLACES, 8))
    await finish(steps, tasks)


async def test_a_canceled_wait_leaves_the_line_to_the_next_of_its_tenant(world: World) -> None:
    steps = Steps(world)
    tasks = await wait_in_line(world, "umbra", PLACES)
    await until_async(lambda: len(steps.begun) == PLACES)
    canceled = asyncio.create_task(world.runner.pool.wait(Asker("umbra"), 5))
    await asyncio.sleep(0)
    tasks += await wait_in_line(world, "umbra", 1)
    canceled.cancel()
    await asyncio.gather(canceled, return_exceptions=True)
    await steps.end_one()
    assert len(steps.begun) == PLACES + 1
    await finish(steps, tasks)
    assert not world.runner.pool._waiting
    assert not world.runner.pool.tenants._held


async def test_calls_that_hang_count_as_places_of_their_tenant(tmp_path: Path) -> None:
    pace = Pace(hang_poll_seconds=0.01)
    async with runner_world(
        tmp_path, concurrency=PLACES, execution_timeout_seconds=0.1, restart_after_seconds=30, pace=pace
    ) as world:
        world.engine.in_hand = 9  # It says that nothing has ended.
        Gate(world)
        hanging = await wait_in_line(world, "umbra", 1, seconds=0.1)
        assert await hanging[0]
        assert world.runner.pool.tenants._held == {"umbra": 1}
        steps = Steps(world)
        tasks = await wait_in_line(world, "umbra", 4)
        await until_async(lambda: steps.begun == ["umbra"], "the only place left is taken")
        tasks += await wait_in_line(world, "acme", 2)
        for _ in range(2):
            await steps.end_one()
        assert steps.begun[1:] == ["acme", "acme"]
        await finish(steps, tasks)


async def test_a_stopped_engine_hands_the_waiting_jobs_of_every_tenant_back(world: World) -> None:
    steps = Steps(world)
    tasks = await wait_in_line(world, "umbra", 5)
    tasks += await wait_in_line(world, "acme", 2)
    await until_async(lambda: len(steps.begun) == PLACES)
    world.runner.pool.stop()
    await until_async(lambda: len(world.runner.receiver.in_hand) == PLACES)
    await finish(steps, tasks)
    assert [record.status for record in records_of(world, tasks)].count(Status.QUEUED) == 5
