"""An engine that fails every probe or answers nonsense is quarantined, and its runner is told even if the store was away."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.gateway import ECHO, STANDARD, UNHURRIED, GatewayWorld, gateway_world, show_card
from tests.support.gateway_engines import (
    ECHO_STORE,
    control,
    engine,
    listed,
    operate,
    submit_many,
    told_kinds,
)
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner, fail, lose
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.events import JobEvent
from enginehouse.contracts.job import JobError, Status
from enginehouse.gateway.engines import breaker
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=UNHURRIED, window_min=10, window_factor=1) as made:
        yield made


async def test_failed_probes_in_a_row_are_a_quarantine(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE_SECONDS", 0.001)
    world.runner.answer = fail
    await submit_many(world, 60)
    await until_async(lambda: engine(world).state == EngineState.QUARANTINED)
    ran = len(world.runner.events)
    assert engine(world).reason == (
        "8 probes in a row failed; the last: PREDICT_ERROR. "
        "Deploy it repaired, or resume it: enginehouse engines resume acme--echo"
    )
    await until_async(lambda: told_kinds(world) == ["paused", "quarantined"])
    await until_async(lambda: control(world.dapr) == {"stopped": True})
    await world.sweep()
    assert (len(world.runner.events), world.gateway.dispatcher.window(ECHO)) == (ran, 0)
    waiting = [job for job in (await listed(world)).values() if job["status"] == "queued"]
    assert len(waiting) == 60 - ran
    assert {(job["status_reason"], job["attempts"]) for job in waiting} == {("engine_paused", 0)}


@pytest.mark.parametrize("code", sorted(breaker.NONSENSE))
async def test_nonsense_in_a_row_is_a_quarantine(tmp_path: Path, code: str) -> None:
    async def nonsense(runner: ScriptedRunner, event: JobEvent) -> bool:
        await runner.end(event, Status.FAILED, error=JobError(code=code, message="[1, 2"))
        return True

    async with gateway_world(tmp_path, window_min=64) as world:
        world.runner.answer = lose
        await submit_many(world, 40)
        await until_async(lambda: len(world.runner.events) == 40)
        for event in world.runner.events[: breaker.QUARANTINE_AFTER_NONSENSE]:
            await nonsense(world.runner, event)
        await until_async(lambda: engine(world).state == EngineState.QUARANTINED)
        assert code in str(engine(world).reason)
        await until_async(lambda: control(world.dapr) == {"stopped": True})


async def test_its_runner_is_told_even_if_the_store_is_away_when_an_operator_repeats_it(world: GatewayWorld) -> None:
    world.dapr.missing.add(ECHO_STORE)
    problem_of(await operate(world, "quarantine", {"reason": "it lies"}), 503, "UNAVAILABLE")
    assert (engine(world).state, control(world.dapr)) == (EngineState.QUARANTINED, None)
    world.dapr.missing.clear()
    assert (await operate(world, "quarantine", {"reason": "it lies"})).status_code == 200
    assert control(world.dapr) == {"stopped": True}
    await until_async(lambda: told_kinds(world) == ["quarantined"])


async def test_its_runner_is_told_by_the_sweep_when_the_store_was_away(world: GatewayWorld) -> None:
    world.dapr.missing.add(ECHO_STORE)
    problem_of(await operate(world, "quarantine", {"reason": "it lies"}), 503, "UNAVAILABLE")
    await world.gateway.transitions.catch_up()
    assert control(world.dapr) is None
    world.dapr.missing.clear()
    await world.gateway.transitions.catch_up()
    assert control(world.dapr) == {"stopped": True}
    written = world.dapr.calls["put"]
    await world.gateway.transitions.catch_up()
    assert world.dapr.calls["put"] == written, "it knows"


async def test_its_runner_is_told_by_the_next_gateway(tmp_path: Path) -> None:
    dapr = FakeDapr()
    async with gateway_world(tmp_path, dapr=dapr) as before:
        dapr.missing.add(ECHO_STORE)
        problem_of(await operate(before, "quarantine", {"reason": "it lies"}), 503, "UNAVAILABLE")
    dapr.handlers.clear()
    dapr.missing.clear()
    async with gateway_world(tmp_path, dapr=dapr):
        await until_async(lambda: control(dapr) == {"stopped": True})


async def test_its_runner_goes_on_when_another_gateway_resumed_it_meanwhile(world: GatewayWorld) -> None:
    await operate(world, "quarantine", {"reason": "it lies"})
    await world.gateway.ledger.set_engine_state(ECHO, EngineState.ACTIVE, None, None)
    await world.gateway.catalogue.sync_states()
    world.dapr.missing.add(ECHO_STORE)
    await world.gateway.transitions.catch_up()
    assert control(world.dapr) == {"stopped": True}
    world.dapr.missing.clear()
    await world.gateway.transitions.catch_up()
    assert control(world.dapr) == {"stopped": False}


@pytest.fixture
async def brief(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    """A gateway that gives a store that hangs one second."""
    async with gateway_world(tmp_path, pace=replace(UNHURRIED, store_seconds=1)) as made:
        yield made


async def test_a_store_that_hangs_keeps_no_other_runner_from_being_told(
    brief: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, other = brief.gateway.sidecar.put, brief.gateway.catalogue.get(STANDARD)
    assert other is not None

    async def hang(store: str, key: str, value: bytes, ttl_seconds: int | None = None) -> None:
        if store == names.results_component(ECHO):
            await asyncio.sleep(3_600)
        await put(store, key, value, ttl_seconds)

    monkeypatch.setattr(brief.gateway.sidecar, "put", hang)
    for known in (engine(brief), other):
        await brief.gateway.catalogue.set_state(known, EngineState.QUARANTINED, "it lies")
    await asyncio.wait_for(brief.gateway.transitions.catch_up(), 20)
    assert names.CONTROL_KEY in brief.dapr.stores[names.results_component(STANDARD)]
    assert control(brief.dapr) is None


async def quarantined_by_the_breaker(world: GatewayWorld) -> None:
    await show_card(world.dapr, ECHO, deployment="one")
    await world.gateway.catalogue.read_card(ECHO)
    await world.gateway.transitions.move(engine(world), EngineState.QUARANTINED, "it lies")


async def test_its_owner_may_resume_an_engine_that_the_breaker_stopped(world: GatewayWorld) -> None:
    await quarantined_by_the_breaker(world)
    waiting = await world.submit("waits")
    assert (await world.job(waiting))["status_detail"] == "acme--echo is quarantined: it lies"
    answer = await world.client().post("/v1/engines/echo/resume")
    assert (answer.status_code, answer.json()["state"]) == (200, "active")
    assert control(world.dapr) == {"stopped": False}
    job = await world.job(waiting, wait=5)
    assert (job["status"], job["status_detail"]) == ("succeeded", None)


async def test_an_operators_quarantine_stays_the_operators_over_restarts_and_deployments(tmp_path: Path) -> None:
    dapr = FakeDapr()
    async with gateway_world(tmp_path, dapr=dapr) as before:
        await show_card(dapr, ECHO, deployment="one")
        await before.gateway.catalogue.read_card(ECHO)
        await operate(before, "quarantine", {"reason": "it mines coins"})
    dapr.handlers.clear()
    async with gateway_world(tmp_path, dapr=dapr) as world:
        await show_card(dapr, ECHO, deployment="two")
        await world.gateway.catalogue.read_card(ECHO)
        assert (engine(world).state, engine(world).by_operator) == (EngineState.QUARANTINED, True)
        job = await world.job(await world.submit())
        assert job["status_detail"] == "acme--echo is quarantined by an operator: it mines coins"
        said = problem_of(await world.client().post("/v1/engines/echo/resume"), 403, "FORBIDDEN")
        assert "An operator quarantined acme--echo (it mines coins)" in said["detail"]
        assert (await operate(world, "resume")).json()["state"] == "active"


async def test_nobody_resumes_the_engine_of_another(world: GatewayWorld) -> None:
    problem_of(await world.client("umbra").post(f"/v1/engines/{ECHO}/resume"), 404, "ENGINE_DOES_NOT_EXIST")
    problem_of(await world.client("umbra").post("/v1/engines/standard/resume"), 403, "FORBIDDEN")


async def test_a_new_deployment_ends_a_quarantine_of_the_breaker(world: GatewayWorld) -> None:
    await quarantined_by_the_breaker(world)
    assert control(world.dapr) == {"stopped": True}
    await show_card(world.dapr, ECHO, deployment="two")
    await world.gateway.catalogue.read_card(ECHO)
    assert engine(world).state == EngineState.ACTIVE
    assert control(world.dapr) == {"stopped": False}
    await until_async(lambda: told_kinds(world) == ["quarantined", "active"])
