"""Operators quarantine, resume and purge engines, and a restart undoes none of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, UNHURRIED, GatewayWorld, gateway_world
from tests.support.gateway_engines import (
    control,
    engine,
    listed,
    operate,
    remove,
    submit_many,
    told,
    told_kinds,
)
from tests.support.problems import problem_of
from tests.support.scripted_runner import lose, never
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger import read
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=UNHURRIED, window_min=10, window_factor=1) as made:
        yield made


async def test_quarantine_stops_delivery_and_says_why(world: GatewayWorld) -> None:
    answer = await operate(world, "quarantine", {"reason": "it lies"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["reason"]) == ("quarantined", "it lies")
    assert control(world.dapr) == {"stopped": True}
    job_id = await world.submit()
    await world.sweep()
    job = await world.job(job_id)
    assert (job["status"], job["status_reason"]) == ("queued", "engine_paused")
    assert world.runner.events == []
    await until_async(lambda: told(world))
    assert [(event["type"], event["data"]) for event in told(world)] == [
        ("dev.enginehouse.engine.quarantined.v1", {"engine": ECHO, "reason": "it lies"})
    ]


async def test_it_survives_a_restart_and_resume_drains_in_order(tmp_path: Path) -> None:
    dapr = FakeDapr()
    async with gateway_world(tmp_path, dapr=dapr) as before:
        await operate(before, "quarantine", {"reason": "it lies"})
        jobs = await submit_many(before, 50)
        urgent = await before.submit("urgent", priority=9)
    dapr.handlers.clear()
    async with gateway_world(tmp_path, dapr=dapr) as world:
        assert (engine(world).state, engine(world).reason) == (EngineState.QUARANTINED, "it lies")
        await world.sweep()
        assert (await world.job(jobs[0]))["status_reason"] == "engine_paused"
        assert world.runner.events == []
        assert (await operate(world, "resume")).json()["state"] == "active"
        assert control(dapr) == {"stopped": False}
        for job_id in [urgent, *jobs]:
            assert (await world.job(job_id, wait=5))["status"] == "succeeded"
        assert [event.id for event in world.runner.events] == [urgent, *jobs]
        await until_async(lambda: told_kinds(world) == ["quarantined", "active"])


async def test_an_engine_without_a_readable_card_stays_quarantined_too(tmp_path: Path) -> None:
    dapr = FakeDapr()
    dapr.fail("read_many", times=50)
    async with gateway_world(tmp_path, dapr=dapr) as before:
        await operate(before, "quarantine", {"reason": "it lies"})
    async with gateway_world(tmp_path, dapr=dapr) as world:
        assert (engine(world).state, engine(world).reason) == (EngineState.QUARANTINED, "it lies")


async def test_a_state_that_is_being_written_is_not_taken_back(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, ledger = asyncio.Event(), world.gateway.ledger
    write = ledger.set_engine_state

    async def slowly(*given: Any, **named: Any) -> None:
        await written.wait()
        await write(*given, **named)

    monkeypatch.setattr(ledger, "set_engine_state", slowly)
    quarantining = asyncio.create_task(operate(world, "quarantine", {"reason": "it lies"}))
    await until_async(lambda: engine(world).state is EngineState.QUARANTINED)
    await world.gateway.catalogue.sync_states()
    assert engine(world).reason == "it lies"
    written.set()
    await quarantining
    await world.gateway.catalogue.sync_states()
    assert engine(world).reason == "it lies"


async def test_of_two_states_that_are_being_written_the_later_one_stays(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, catalogue, ledger = asyncio.Event(), world.gateway.catalogue, world.gateway.ledger
    write = ledger.set_engine_state

    async def pause_slowly(engine_id: str, state: EngineState, *given: Any, **named: Any) -> None:
        if state is EngineState.PAUSED:
            await later.wait()
        await write(engine_id, state, *given, **named)

    monkeypatch.setattr(ledger, "set_engine_state", pause_slowly)
    quarantining = asyncio.create_task(catalogue.set_state(engine(world), EngineState.QUARANTINED, "it lies"))
    pausing = asyncio.create_task(catalogue.set_state(engine(world), EngineState.PAUSED, "it fails"))
    await quarantining
    await catalogue.sync_states()
    assert engine(world).reason == "it fails"
    later.set()
    await pausing


async def test_a_look_at_the_ledger_that_began_before_does_not_undo_it(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = world.gateway.ledger
    look, seen, go = ledger.read, asyncio.Event(), asyncio.Event()

    async def slow(query: Any, *arguments: Any) -> Any:
        rows = await look(query, *arguments)
        if query is read.engine_states and not go.is_set():
            seen.set()
            await go.wait()
        return rows

    monkeypatch.setattr(ledger, "read", slow)
    looking = asyncio.create_task(world.gateway.catalogue.sync_states())
    await seen.wait()
    await operate(world, "quarantine", {"reason": "it lies"})
    go.set()
    await looking
    assert engine(world).state == EngineState.QUARANTINED


async def test_removed_and_deployed_again_it_is_still_quarantined(world: GatewayWorld) -> None:
    await operate(world, "quarantine", {"reason": "it lies"})
    await remove(world)
    problem_of(await operate(world, "resume"), 404, "ENGINE_DOES_NOT_EXIST")
    world.dapr.components.add(names.results_component(ECHO))
    await world.gateway.catalogue.refresh()
    assert (engine(world).state, engine(world).reason) == (EngineState.QUARANTINED, "it lies")
    await operate(world, "resume")
    assert (engine(world).state, engine(world).reason) == (EngineState.ACTIVE, None)


async def test_purge_cancels_what_waits_and_leaves_what_runs(world: GatewayWorld) -> None:
    world.runner.answer = never
    running = await world.submit("runs")
    await world.until_status(running, Status.RUNNING)
    await operate(world, "quarantine", {"reason": "too much"})
    waiting = await submit_many(world, 230)
    answer = await operate(world, "purge")
    assert answer.json() == {"canceled": 230}
    found = await listed(world)
    assert {found[job_id]["status"] for job_id in waiting} == {"canceled"}
    assert "Purged" in found[waiting[0]]["error"]["message"]
    assert found[running]["status"] == "running"
    assert (await operate(world, "purge")).json() == {"canceled": 0}
    await operate(world, "resume")
    await world.sweep()
    assert [event.id for event in world.runner.events] == [running]


async def test_a_job_on_its_way_that_was_purged_is_not_run_by_who_gets_it(world: GatewayWorld) -> None:
    world.runner.answer = lose
    job_id = await world.submit()
    event = await world.delivered(job_id)
    assert (await operate(world, "purge")).json() == {"canceled": 1}
    assert (await world.runner.write(event, Status.SUCCEEDED)).status is Status.CANCELED


@pytest.mark.parametrize("what", ["quarantine", "purge"])
async def test_only_an_administrators_key_does(world: GatewayWorld, what: str) -> None:
    body = {"reason": "mine"} if what == "quarantine" else None
    problem_of(await world.client().post(f"/v1/engines/{ECHO}/{what}", json=body), 403, "FORBIDDEN")
    problem_of(await operate(world, what, body, "acme--no-such"), 404, "ENGINE_DOES_NOT_EXIST")
    assert engine(world).state == EngineState.ACTIVE


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "x", "more": 1}, []])
async def test_a_quarantine_has_a_reason(world: GatewayWorld, body: Any) -> None:
    problem_of(await operate(world, "quarantine", body), 422, "INVALID_REQUEST")
    assert engine(world).state == EngineState.ACTIVE
