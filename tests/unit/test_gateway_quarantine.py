"""An engine that fails every probe or answers nonsense is quarantined, and its runner is told even if the store was away."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from enginehouse.contracts.events import HandedJob
from enginehouse.contracts.job import JobError, Status
from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.gateway.engines import breaker
from enginehouse.gateway.engines.misbehaviour import Misbehaviour
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
    async def nonsense(runner: ScriptedRunner, event: HandedJob) -> bool:
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
        assert job["status_detail"] == "acme--echo is quarantined until an operator resumes it: it mines coins"
        said = problem_of(await world.client().post("/v1/engines/echo/resume"), 403, "FORBIDDEN")
        assert "acme--echo is quarantined (it mines coins): only an administrator" in said["detail"]
        assert (await operate(world, "resume")).json()["state"] == "active"


async def decides_meanwhile(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an operator quarantine the engine while the next message to its runners is on its way."""
    put = world.gateway.sidecar.put

    async def slow(store: str, key: str, value: bytes, ttl_seconds: int | None = None) -> None:
        monkeypatch.setattr(world.gateway.sidecar, "put", put)
        assert (await operate(world, "quarantine", {"reason": "it mines coins"})).status_code == 200
        await put(store, key, value, ttl_seconds)

    monkeypatch.setattr(world.gateway.sidecar, "put", slow)


async def test_an_operators_quarantine_wins_against_a_resume_that_has_begun(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await quarantined_by_the_breaker(world)
    await decides_meanwhile(world, monkeypatch)
    problem_of(await world.client().post("/v1/engines/echo/resume"), 403, "FORBIDDEN")
    assert (engine(world).state, engine(world).reason) == (EngineState.QUARANTINED, "it mines coins")
    assert control(world.dapr) == {"stopped": True}


async def test_another_gateways_quarantine_is_noticed_by_a_resume(world: GatewayWorld) -> None:
    await quarantined_by_the_breaker(world)
    await world.gateway.ledger.set_engine_state(ECHO, EngineState.QUARANTINED, "no", None, by_operator=True)
    problem_of(await world.client().post("/v1/engines/echo/resume"), 403, "FORBIDDEN")


async def test_an_operators_key_alone_does_not_end_what_an_operator_decided(world: GatewayWorld) -> None:
    conditional = f"/v1/engines/{ECHO}/resume?unless_by_operator=true"
    await operate(world, "quarantine", {"reason": "it mines coins"})
    problem_of(await world.client("admin").post(conditional), 403, "FORBIDDEN")
    assert engine(world).state == EngineState.QUARANTINED
    await operate(world, "resume")
    await world.gateway.transitions.move(engine(world), EngineState.QUARANTINED, "it lies")
    assert (await world.client("admin").post(conditional)).json()["state"] == "active"


async def test_an_active_engine_cannot_be_resumed(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    said = problem_of(await world.client().post("/v1/engines/echo/resume"), 409, "WRONG_STATE")
    assert "acme--echo is active" in said["detail"]
    assert control(world.dapr) is None


async def test_nobody_resumes_the_engine_of_another(world: GatewayWorld) -> None:
    problem_of(await world.client("umbra").post(f"/v1/engines/{ECHO}/resume"), 404, "ENGINE_DOES_NOT_EXIST")
    problem_of(await world.client("umbra").post("/v1/engines/standard/resume"), 403, "FORBIDDEN")


async def test_a_card_ends_no_quarantine_since_whoever_has_taken_a_sidecar_can_write_it(world: GatewayWorld) -> None:
    await quarantined_by_the_breaker(world)
    await show_card(world.dapr, ECHO, deployment="two")
    await world.gateway.catalogue.read_card(ECHO)
    assert engine(world).state == EngineState.QUARANTINED
    assert control(world.dapr) == {"stopped": True}


async def test_who_runs_engines_learns_of_a_quarantine_and_of_its_end_at_once(world: GatewayWorld) -> None:
    admin = world.client("admin")
    before = (await admin.get("/v1/quarantines")).json()
    assert before["quarantines"] == []

    async def other_than(tag: str) -> dict[str, Any]:
        answer = await admin.get("/v1/quarantines", params={"known": tag}, headers={"Prefer": "wait=60"})
        return dict(answer.json())

    waiting = asyncio.create_task(other_than(before["tag"]))
    await operate(world, "quarantine", {"reason": "it lies"})
    begun = await waiting
    assert begun["quarantines"] == [{"engine": ECHO, "reason": "it lies", "by_operator": True}]
    waiting = asyncio.create_task(other_than(begun["tag"]))
    await operate(world, "resume")
    assert await waiting == before
    # The decision of another gateway is found in the ledger.
    waiting = asyncio.create_task(other_than(before["tag"]))
    await world.gateway.ledger.set_engine_state(ECHO, EngineState.QUARANTINED, "8 probes in a row failed", None)
    await world.gateway.catalogue.sync_states()
    assert [each["by_operator"] for each in (await waiting)["quarantines"]] == [False]


async def test_only_administrators_see_which_engines_must_not_run(world: GatewayWorld) -> None:
    problem_of(await world.client().get("/v1/quarantines"), 403, "FORBIDDEN")


async def seen(world: GatewayWorld, misdeed: str, times: int, name: str = ECHO) -> dict[str, Any]:
    answer = await operate(world, "misbehaviour", {"misdeed": misdeed, "times": times}, name)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_an_engine_that_goes_on_misbehaving_is_quarantined_until_an_operator_resumes_it(
    world: GatewayWorld,
) -> None:
    few = await seen(world, "denied_commands", 299)
    assert (few["state"], few["misbehaviour"]) == ("active", {"denied_commands": 299})
    await seen(world, "crashes_while_starting", 1)
    owner, other = world.client(), world.client("umbra")
    assert (await owner.get("/v1/engines/echo")).json()["misbehaviour"] == few["misbehaviour"] | {
        "crashes_while_starting": 1
    }
    problem_of(await other.get(f"/v1/engines/{ECHO}"), 404, "ENGINE_DOES_NOT_EXIST")
    stopped = await seen(world, "denied_commands", 1)
    reason = "Misbehaviour was counted: 300 commands that the broker refused to its credentials within 60 minutes."
    assert (stopped["state"], stopped["reason"], stopped["misbehaviour"]) == ("quarantined", reason, {})
    problem_of(await owner.post("/v1/engines/echo/resume"), 403, "FORBIDDEN")
    await until_async(lambda: told_kinds(world) == ["quarantined"])
    late = await seen(world, "denied_commands", 10_000)
    assert late["misbehaviour"] == {}
    assert (await operate(world, "resume")).json()["state"] == "active"
    assert (await seen(world, "denied_commands", 1))["misbehaviour"] == {"denied_commands": 1}


async def test_an_engine_that_never_starts_is_quarantined_and_its_owner_may_resume_it(world: GatewayWorld) -> None:
    stopped = await seen(world, "crashes_while_starting", 100)
    assert "100 ends of a replica before any had been healthy" in stopped["reason"]
    assert (await world.client().post("/v1/engines/echo/resume")).json()["state"] == "active"


async def test_what_it_did_long_ago_does_not_count(world: GatewayWorld) -> None:
    now = [0.0]
    counted = Misbehaviour(
        world.gateway.catalogue,
        world.gateway.transitions,
        window_seconds=60,
        enough=dict.fromkeys(Misdeed, 10),
        clock=lambda: now[0],
    )
    for now[0] in (0.0, 0.5, 70.0, 71.0):
        await counted.note(ECHO, Misdeed.DENIED_COMMANDS, 4)
    assert counted.counts(ECHO) == {"denied_commands": 8}
    assert engine(world).state is EngineState.ACTIVE
    assert counted.counts("acme--other") == {}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"misdeed": "typos"},
        {"misdeed": "denied_commands", "times": 0},
        {"misdeed": "denied_commands", "times": 1e10},
    ],
)
async def test_only_administrators_report_and_only_what_is_known(world: GatewayWorld, body: dict[str, Any]) -> None:
    problem_of(await operate(world, "misbehaviour", body), 422, "INVALID_REQUEST")
    valid = {"misdeed": "denied_commands", "times": 1}
    answer = await world.client().post(f"/v1/engines/{ECHO}/misbehaviour", json=valid)
    problem_of(answer, 403, "FORBIDDEN")
    problem_of(await operate(world, "misbehaviour", valid, "acme--no-such"), 404, "ENGINE_DOES_NOT_EXIST")
