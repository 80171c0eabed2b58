"""A gateway that starts again finishes the jobs of the one before it, and says when it is not ready."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, STANDARD, Clock, GatewayWorld, gateway_world, impatient
from tests.support.scripted_runner import never

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.job import Status
from enginehouse.gateway.pace import Pace
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=impatient(clock)) as made:
        yield made


async def test_what_was_accepted_by_the_one_before_is_finished_by_the_next(tmp_path: Path) -> None:
    dapr = FakeDapr()
    async with gateway_world(tmp_path, dapr=dapr, window_min=2, window_factor=1) as world:
        world.runner.answer = never
        ids = [await world.submit(number) for number in range(5)]
        begun = [await world.delivered(job_id) for job_id in ids[:2]]
        for job_id in ids[:2]:
            await world.until_status(job_id, Status.RUNNING)
        key = world.keys["acme"]
    dapr.handlers.clear()
    for event in begun:
        await world.runner.end(event, tell=False)
    async with gateway_world(tmp_path, dapr=dapr) as world:
        assert key != world.keys["acme"]
        for job_id in ids[:2]:
            await world.aged(job_id, 60)
        await world.sweep()
        for job_id in ids:
            await world.until_status(job_id, Status.SUCCEEDED)
        assert world.runner.inputs() == [2, 3, 4]


async def test_before_its_sidecar_is_there_it_accepts_jobs_for_the_engines_it_knew(tmp_path: Path) -> None:
    dapr = FakeDapr()
    async with gateway_world(tmp_path, dapr=dapr, cards={ECHO: {"input_schema": {"type": "integer"}}}):
        dapr.handlers.clear()
    dapr.fail("metadata", times=3)
    dapr.fail("publish", times=2)
    pace = Pace(engines_poll_seconds=0.01, broker_retry_seconds=0.05)
    async with gateway_world(tmp_path, dapr=dapr, pace=pace) as world:
        await world.until_status(await world.submit(5), Status.SUCCEEDED)
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": "no integer"})
        assert answer.status_code == 422


async def test_while_its_sidecar_shows_nothing_for_a_moment_no_engine_is_lost(world: GatewayWorld) -> None:
    world.dapr.components.clear()
    for _ in range(3):
        await world.gateway.catalogue.refresh()
        assert await world.submit()
    world.dapr.components |= {names.results_component(ECHO), names.results_component(STANDARD)}
    await world.gateway.catalogue.refresh()
    assert {engine.id for engine in world.gateway.catalogue if engine.state == EngineState.RETIRED} == set()


async def test_not_ready_before_it_knows_its_engines_and_while_its_ledger_is_away(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await world.client().get("/healthz/ready")).status_code == 200

    async def away(*_: Any) -> Any:
        raise Unavailable

    monkeypatch.setattr(world.gateway.ledger, "read", away)
    answer = await world.client().get("/healthz/ready")
    assert (answer.status_code, answer.json()["ledger"]) == (503, False)
    assert (await world.client().get("/healthz/live")).status_code == 200
