"""Engines that are removed, cannot be loaded or receive nothing: their jobs end or wait, and the API says why."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.gateway import ECHO, UNHURRIED, GatewayWorld, gateway_world
from tests.support.gateway_engines import engine, operate, remove, submit_many
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner, never, succeed

from enginehouse.contracts import names
from enginehouse.contracts.events import JobEvent
from enginehouse.contracts.job import Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=UNHURRIED, window_min=10, window_factor=1) as made:
        yield made


async def test_the_jobs_of_a_removed_engine_end_and_say_so(world: GatewayWorld) -> None:
    world.runner.answer = never
    running = await world.submit("runs")
    await world.until_status(running, Status.RUNNING)
    event = world.runner.events[0]
    await operate(world, "quarantine", {"reason": "to be removed"})
    waiting = await submit_many(world, 20)
    await remove(world)
    await world.sweep()
    for job_id in [running, *waiting]:
        job = await world.job(job_id)
        assert (job["status"], job["error"]["code"]) == ("canceled", "ENGINE_REMOVED")
    problem_of(await world.client().post("/v1/engines/echo/jobs", json={"input": 1}), 404, "ENGINE_DOES_NOT_EXIST")
    await world.runner.end(event, output="too late")
    await world.sweep()
    assert (await world.job(running))["status"] == "canceled"


async def test_an_engine_that_cannot_be_loaded_keeps_its_jobs_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "engines" / ECHO).mkdir(parents=True)
    component = names.results_component(ECHO)
    async with gateway_world(tmp_path, engines_dir=tmp_path / "engines") as world:
        world.dapr.components.discard(component)
        world.dapr.missing.add(component)

        async def once_mended(runner: ScriptedRunner, event: JobEvent) -> bool:
            return not world.dapr.missing and await succeed(runner, event)

        world.runner.answer = once_mended
        for _ in range(20):
            await world.gateway.catalogue.refresh()
        job_id = await world.submit()
        await world.sweep()
        assert (await world.job(job_id))["status"] == "queued"
        shown = (await world.client().get(f"/v1/engines/{ECHO}")).json()
        assert (shown["state"], shown["health"]) == ("active", "unknown")
        assert component in shown["reason"]

        world.dapr.components.add(component)
        world.dapr.missing.discard(component)
        await world.gateway.catalogue.refresh()
        await world.until_status(job_id, Status.SUCCEEDED)
        assert "could not load" not in (await world.client().get(f"/v1/engines/{ECHO}")).json()["reason"]

        (tmp_path / "engines" / ECHO).rmdir()
        await remove(world)


async def test_workers_that_receive_nothing_are_told_of(world: GatewayWorld) -> None:
    await world.runner.beat(subscribed=False)
    engine(world).workers_read_at = 0
    shown = (await world.client().get(f"/v1/engines/{ECHO}")).json()
    assert "receives jobs" in shown["reason"]
