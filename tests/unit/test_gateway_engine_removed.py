"""Engines that are removed, cannot be loaded or receive nothing: their jobs end or wait, and the API says why."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.gateway import ECHO, UNHURRIED, GatewayWorld, gateway_world
from tests.support.gateway_engines import engine, operate, remove, submit_many
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner, never, succeed

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.events import HandedJob
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
    problem_of(await world.client().post("/v1/engines/echo/jobs", json={"input": 1}), 410, "ENGINE_REMOVED")
    for name in ("echo", ECHO):
        page = await world.client().get(f"/v1/jobs?engine={name}&limit=100")
        assert {job["id"] for job in page.json()["jobs"]} == {running, *waiting}, page.text
    problem_of(await world.client("umbra").get(f"/v1/jobs?engine={ECHO}"), 404, "ENGINE_DOES_NOT_EXIST")
    await world.runner.end(event, output="too late")
    await world.sweep()
    assert (await world.job(running))["status"] == "canceled"


async def test_the_jobs_of_an_engine_that_is_being_removed_end_by_their_records(world: GatewayWorld) -> None:
    world.runner.answer = never
    running = await world.submit("runs")
    await world.until_status(running, Status.RUNNING)
    waiting = await submit_many(world, 20)
    kept = await world.submit(tenant="umbra", engine="private")
    world.dapr.components.add(names.retired_component(ECHO))
    await world.gateway.catalogue.refresh()
    refused = await world.client().post("/v1/engines/echo/jobs", json={"input": 1})
    assert "was removed" in problem_of(refused, 410, "ENGINE_REMOVED")["detail"]
    problem_of(await world.client("umbra").post(f"/v1/engines/{ECHO}/jobs", json={"input": 1}), 404)
    await world.sweep()
    for job_id in [running, *waiting]:
        record = world.record(job_id)
        assert record
        assert record.status is Status.CANCELED, "its runner learns it from the record"
        assert (await world.job(job_id))["error"]["code"] == "ENGINE_REMOVED"
    assert (await world.job(kept, tenant="umbra", wait=10))["status"] == "succeeded"

    shown = (await world.client("admin").get(f"/v1/engines/{ECHO}")).json()
    assert (shown["state"], shown["queue"]["jobs"]["queued"], shown["queue"]["jobs"]["running"]) == ("retired", 0, 0)
    assert ECHO not in [one["id"] for one in (await world.client().get("/v1/engines")).json()["engines"]]


async def test_an_engine_deployed_again_after_its_removal_takes_jobs(world: GatewayWorld) -> None:
    world.dapr.components.add(names.retired_component(ECHO))
    await world.gateway.catalogue.refresh()
    world.dapr.components -= {names.results_component(ECHO), names.retired_component(ECHO)}
    for _ in range(7):
        await world.gateway.catalogue.refresh()
    problem_of(await world.client().post("/v1/engines/echo/jobs", json={"input": 1}), 410, "ENGINE_REMOVED")
    world.dapr.components.add(names.results_component(ECHO))
    await world.gateway.catalogue.refresh()
    await world.until_status(await world.submit(), Status.SUCCEEDED)


async def test_a_quarantine_outlives_the_removal(world: GatewayWorld) -> None:
    await operate(world, "quarantine", {"reason": "it lies"})
    world.dapr.components.add(names.retired_component(ECHO))
    await world.gateway.catalogue.refresh()
    assert engine(world).state is EngineState.RETIRED
    world.dapr.components.discard(names.retired_component(ECHO))
    await world.gateway.catalogue.refresh()
    found = engine(world)
    assert (found.state, found.reason, found.by_operator) == (EngineState.QUARANTINED, "it lies", True)


async def test_a_gateway_that_first_hears_of_an_engine_when_it_is_removed_takes_no_jobs_for_it(
    world: GatewayWorld,
) -> None:
    late = "acme--late"
    world.dapr.components |= {names.results_component(late), names.retired_component(late)}
    await world.gateway.catalogue.refresh()
    problem_of(await world.client().post("/v1/engines/late/jobs", json={"input": 1}), 410, "ENGINE_REMOVED")


async def test_an_engine_that_cannot_be_loaded_keeps_its_jobs_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "engines" / ECHO).mkdir(parents=True)
    component = names.results_component(ECHO)
    async with gateway_world(tmp_path, engines_dir=tmp_path / "engines") as world:
        world.dapr.components.discard(component)
        world.dapr.missing.add(component)

        async def once_mended(runner: ScriptedRunner, event: HandedJob) -> bool:
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
