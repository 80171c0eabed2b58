"""Completions are hints: one that is late, repeated, lost or nonsense loses no job and stops no other."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.gateway import ECHO, Clock, GatewayWorld, gateway_world, impatient, sweep_in
from tests.support.scripted_runner import ScriptedRunner, never, succeed, succeed_untold
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.events import JobEvent
from enginehouse.contracts.job import Status


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=impatient(clock)) as made:
        yield made


async def test_one_that_got_lost_is_found_by_the_sweep(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = succeed_untold
    job_id = await world.submit()
    waiting = asyncio.create_task(world.job(job_id, wait=30))
    await world.delivered(job_id)
    await until_async(lambda: world.record(job_id))
    assert (await world.job(job_id))["status"] == "queued"
    await sweep_in(world, clock, 3)
    assert (await asyncio.wait_for(waiting, 20))["status"] == "succeeded"
    assert len(world.runner.events) == 1


async def test_one_that_comes_while_the_store_is_away_is_made_up_for(world: GatewayWorld) -> None:
    async def succeed_while_the_store_is_away(runner: ScriptedRunner, event: JobEvent) -> bool:
        world.dapr.fail("read_many", on=event.id)
        return await succeed(runner, event)

    world.runner.answer = succeed_while_the_store_is_away
    job_id = await world.submit()
    await world.delivered(job_id)
    await until_async(lambda: not world.dapr.failures["read_many"])
    await world.idle()
    assert (await world.job(job_id))["status"] == "queued"
    await world.aged(job_id, 3)
    await world.sweep()
    assert (await world.job(job_id))["status"] == "succeeded"


async def test_an_error_that_nobody_foresaw_does_not_stop_those_that_follow(world: GatewayWorld) -> None:
    async def succeed_unforeseen(runner: ScriptedRunner, event: JobEvent) -> bool:
        world.dapr.fail("read_many", RuntimeError("nobody foresaw this"), on=event.id)
        return await succeed(runner, event)

    world.runner.answer = succeed_unforeseen
    ids = [await world.submit(number) for number in range(5)]
    for job_id in ids:
        await world.until_status(job_id, Status.SUCCEEDED)
    await world.idle()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"type":"x"}',
        b'{"type":"dev.enginehouse.job.completed.v1","engineid":"acme--echo","subject":"not an id"}',
        b'{"type":"dev.enginehouse.job.completed.v1","engineid":5,"subject":"01890a5d-ac96-7b2a-8c4e-0123456789ab"}',
        b'{"type":"dev.enginehouse.engine.announced.v1","engineid":"no engine","subject":"a"}',
        b'{"type":"dev.enginehouse.engine.announced.v1","engineid":"acme--none","subject":"a"}',
    ],
)
async def test_nonsense_is_acknowledged_and_forgotten(world: GatewayWorld, body: bytes) -> None:
    before = await world.stored()
    assert await world.gateway.hints.deliver(body)
    assert await world.stored() == before
    await world.until_status(await world.submit(), Status.SUCCEEDED)


async def test_those_of_a_job_that_nobody_accepted_are_acknowledged(world: GatewayWorld) -> None:
    await world.runner.tell("dev.enginehouse.job.completed.v1", names.new_job_id(), Status.SUCCEEDED, 1)
    await world.idle()


async def test_a_record_that_cannot_be_read_stops_no_other(world: GatewayWorld) -> None:
    world.runner.answer = never
    broken, fine = await world.submit(1), await world.submit(2)
    for job_id in (broken, fine):
        await world.until_status(job_id, Status.RUNNING)
    await world.sidecar.put(names.results_component(ECHO), broken, b"no record")
    for job_id in (broken, fine):
        await world.runner.tell("dev.enginehouse.job.completed.v1", job_id, Status.SUCCEEDED, 1)
    await world.runner.records.change(
        fine, 60, lambda present: present and present.model_copy(update={"status": Status.SUCCEEDED})
    )
    await world.runner.tell("dev.enginehouse.job.completed.v1", fine, Status.SUCCEEDED, 1)
    await world.until_status(fine, Status.SUCCEEDED)
    assert (await world.job(broken))["status"] == "running"
