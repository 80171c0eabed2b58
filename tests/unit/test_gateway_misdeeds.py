"""Senseless answers and worse are counted against an engine, and stop it where nobody but its own tenant can be the cause."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.gateway import ECHO, STANDARD, UNHURRIED, GatewayWorld, gateway_world, show_card
from tests.support.gateway_engines import engine, operate, submit_many, told, told_kinds
from tests.support.scripted_runner import Answer, ScriptedRunner, fail, succeed
from tests.support.waiting import until_async

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.events import HandedJob
from enginehouse.contracts.job import JobError, Status
from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.contracts.moments import now
from enginehouse.gateway.engines import breaker

ENOUGH = 20


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    limits: dict[str, Any] = {
        f"{kind}_max": ENOUGH for kind in ("malformed_answers", "crashes", "out_of_memory", "hangs")
    }
    async with gateway_world(tmp_path, pace=UNHURRIED, window_min=10, window_factor=1, **limits) as made:
        yield made


def ends_with(code: str) -> Answer:
    """Return what fails a job for good with this code."""

    async def end(runner: ScriptedRunner, event: HandedJob) -> bool:
        await runner.end(event, Status.FAILED, error=JobError(code=code, message="[1, 2"), dead_lettered=True)
        return True

    return end


nonsense = ends_with("MALFORMED_ANSWER")


def in_turn(is_sense: Callable[[int], bool]) -> Answer:
    """Return what answers the numbers that are inputs with sense, or with nonsense."""

    async def answer(runner: ScriptedRunner, event: HandedJob) -> bool:
        return await (succeed if is_sense(event.data.input) else nonsense)(runner, event)

    return answer


async def shown(world: GatewayWorld, name: str = ECHO) -> dict[str, Any]:
    """Return what an administrator is shown of an engine."""
    return dict((await world.client("admin").get(f"/v1/engines/{name}")).json())


async def counted(world: GatewayWorld, name: str = ECHO) -> dict[str, int]:
    """Return what an administrator is shown of an engine's misbehaviour."""
    return dict((await shown(world, name))["misbehaviour"])


async def test_an_engine_that_answers_some_jobs_well_is_quarantined_for_its_nonsense(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.001)
    # Twelve in a row pause it. The thirteenth, a probe, succeeds, so that the breaker never comes to its end.
    world.runner.answer = in_turn(lambda number: number % 13 == 12)
    await submit_many(world, 60)
    await until_async(lambda: engine(world).state == EngineState.QUARANTINED)
    assert str(engine(world).reason).startswith(
        f"Misbehaviour was counted: {ENOUGH} answers that are no results within 60 minutes, while 1 of its jobs succeeded."
    )
    await until_async(lambda: told_kinds(world)[-1] == "quarantined")
    assert told_kinds(world)[:2] == ["paused", "active"], "the breaker came first"
    assert told(world)[-1]["data"] == {"engine": ECHO, "reason": engine(world).reason}
    # It is its owner's mistake, and the owner may end it.
    assert (await world.client().post("/v1/engines/echo/resume")).json()["state"] == "active"
    assert await counted(world) == {}


async def test_each_attempt_counts_also_of_a_job_that_is_tried_again(world: GatewayWorld) -> None:
    async def again(runner: ScriptedRunner, event: HandedJob) -> bool:
        if event.attempt == event.data.retry.max_attempts:
            return await nonsense(runner, event)
        error = JobError(code="MALFORMED_ANSWER", message="[1, 2", retryable=True)
        await runner.end(event, Status.QUEUED, error=error, retry_at=now())
        return True

    world.runner.answer = again
    job = await world.submit(retry={"max_attempts": 6, "initial_delay_ms": 0})
    await world.until_status(job, Status.FAILED)
    assert await counted(world) == {"malformed_answers": 6}


@pytest.mark.parametrize("code", ["INVALID_INPUT", "PREDICT_ERROR", "PREDICT_TIMEOUT", "INPUT_UNAVAILABLE"])
async def test_what_says_nothing_of_its_answers_does_not_count(world: GatewayWorld, code: str) -> None:
    world.runner.answer = ends_with(code)
    await world.until_status(await world.submit(), Status.FAILED)
    assert await counted(world) == {}


async def test_rare_nonsense_does_not_stop_an_engine_that_works(world: GatewayWorld) -> None:
    # Each eleventh answer is enough of it, each twelfth is not.
    world.runner.answer = in_turn(lambda number: number % 12 != 11)
    await submit_many(world, 12 * (ENOUGH + 1))
    await until_async(lambda: len(world.runner.events) == 12 * (ENOUGH + 1))
    await world.idle()
    assert (await counted(world), engine(world).state) == ({"malformed_answers": ENOUGH + 1}, EngineState.ACTIVE)
    world.runner.answer = in_turn(lambda number: number % 5 != 0)
    await submit_many(world, 50)
    await until_async(lambda: engine(world).state == EngineState.QUARANTINED)


async def test_no_tenants_jobs_get_a_shared_engine_quarantined(world: GatewayWorld) -> None:
    world.runners[STANDARD].answer = in_turn(lambda number: number % 4 == 3)
    for tenant in ("acme", "umbra", "acme"):
        for number in range(20):
            job = await world.submit(number, tenant=tenant, engine="standard")
            assert (await world.job(job, tenant=tenant, wait=10))["finished_at"]
    assert await counted(world, STANDARD) == {"malformed_answers": 45}
    for misdeed in (Misdeed.CRASHES, Misdeed.OUT_OF_MEMORY, Misdeed.HANGS):
        await world.gateway.misbehaviour.note(STANDARD, misdeed, 10 * ENOUGH)
    assert (await shown(world, STANDARD))["state"] == "active"
    assert (await world.client().get("/v1/engines/standard")).json()["misbehaviour"] == {}, "it is not acme's"
    await world.gateway.misbehaviour.note(STANDARD, Misdeed.CRASHES_WHILE_STARTING, 100)
    assert (await shown(world, STANDARD))["state"] == "quarantined", "that no job has caused"


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        (Misdeed.CRASHES, f"{ENOUGH} ends of a replica after one had been healthy"),
        (Misdeed.OUT_OF_MEMORY, f"{ENOUGH} kills of a process because the memory of its container was used up"),
        (Misdeed.HANGS, f"{ENOUGH} restarts of a replica because a call hung"),
    ],
)
async def test_an_engine_that_abuses_resources_is_quarantined_and_its_owner_may_resume_it(
    world: GatewayWorld, misdeed: Misdeed, words: str
) -> None:
    await operate(world, "misbehaviour", {"misdeed": misdeed, "times": ENOUGH - 1})
    assert (await counted(world), engine(world).state) == ({misdeed: ENOUGH - 1}, EngineState.ACTIVE)
    stopped = (await operate(world, "misbehaviour", {"misdeed": misdeed, "times": 1})).json()
    assert stopped["state"] == "quarantined"
    assert stopped["reason"].startswith(
        f"Misbehaviour was counted: {words} within 60 minutes, while 0 of its jobs succeeded."
    )
    assert (await world.client().post("/v1/engines/echo/resume")).json()["state"] == "active"


async def test_another_version_begins_anew_but_for_what_no_honest_one_does(world: GatewayWorld) -> None:
    await show_card(world.dapr, ECHO, deployment="one")
    await world.gateway.catalogue.read_card(ECHO)
    for misdeed in Misdeed:
        await world.gateway.misbehaviour.note(ECHO, misdeed, 7)
    assert await counted(world) == dict.fromkeys(Misdeed, 7)
    await show_card(world.dapr, ECHO, deployment="two")
    await world.gateway.catalogue.read_card(ECHO)
    assert await counted(world) == {"denied_commands": 7}


async def test_metrics_count_misdeeds_by_kind_and_name_no_engine(world: GatewayWorld) -> None:
    async def measured() -> dict[str, float]:
        text = (await world.client().get("/metrics")).text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        samples = families["enginehouse_gateway_misdeeds"].samples
        assert {label for sample in samples for label in sample.labels} <= {"kind"}
        return {each.labels["kind"]: each.value for each in samples if each.name.endswith("_total")}

    before = await measured()
    world.runner.answer = nonsense
    await world.until_status(await world.submit(), Status.FAILED)
    world.runner.answer = fail
    await world.until_status(await world.submit(), Status.FAILED)
    await world.gateway.misbehaviour.note(ECHO, Misdeed.HANGS, 2)
    grown = {kind: value - before.get(kind, 0) for kind, value in (await measured()).items()}
    assert {kind: more for kind, more in grown.items() if more} == {"malformed_answers": 1, "hangs": 2}
