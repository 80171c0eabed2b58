"""An engine whose jobs fail is paused, its jobs wait, and it goes on once a probe succeeds."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.gateway import ECHO, STANDARD, UNHURRIED, GatewayWorld, gateway_world, show_card
from tests.support.gateway_engines import (
    engine,
    listed,
    submit_many,
    told,
    told_kinds,
)
from tests.support.scripted_runner import ScriptedRunner, fail, retry, succeed
from tests.support.waiting import until_async

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.events import HandedJob
from enginehouse.contracts.job import JobError, Status
from enginehouse.gateway.engines import breaker

WINDOW = 10

pytestmark = pytest.mark.usefixtures("_long_pauses")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=UNHURRIED, window_min=WINDOW, window_factor=1) as made:
        yield made


@pytest.fixture
def _long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 3_600)


async def paused(world: GatewayWorld, more: int = 20) -> list[str]:
    """Let the engine fail until it is paused, and return the jobs that wait for it, in order."""
    go = asyncio.Event()

    async def fail_together(runner: ScriptedRunner, event: HandedJob) -> bool:
        await go.wait()
        return await fail(runner, event)

    world.runner.answer = fail_together
    jobs = await submit_many(world, WINDOW + more)
    await until_async(lambda: len(world.runner.events) == WINDOW)
    go.set()
    await until_async(lambda: engine(world).state == EngineState.PAUSED)
    # What was handed over on the way to the verdict comes to its end.
    await until_async(lambda: in_window_is_empty(world))
    return [job_id for job_id in jobs if (await world.job(job_id))["status"] == "queued"]


async def probe_now(world: GatewayWorld) -> None:
    """End the pause now, so that the next job is a probe."""
    known = engine(world)
    await world.gateway.catalogue.set_state(known, EngineState.PAUSED, known.reason, time.time() - 1)
    world.gateway.dispatcher.wake(ECHO)


async def late(runner: ScriptedRunner, event: HandedJob) -> bool:
    error = JobError(code="PREDICT_TIMEOUT", message="too late", retryable=True)
    await runner.end(event, Status.TIMED_OUT, error=error)
    return True


async def in_window_is_empty(world: GatewayWorld) -> bool:
    found = await listed(world)
    failed = sum(1 for job in found.values() if job["status"] == "failed")
    return failed == len(world.runner.events)


async def test_the_jobs_of_a_failing_engine_wait_and_burn_nothing(world: GatewayWorld) -> None:
    waiting = await paused(world)
    assert 0 < len(waiting) <= 20
    shown = (await world.client().get("/v1/engines/echo")).json()
    assert shown["state"] == "paused"
    assert "jobs in a row failed; the last: PREDICT_ERROR" in shown["reason"]
    assert "enginehouse engines resume acme--echo" in shown["reason"]
    assert world.gateway.dispatcher.window(ECHO) == 0
    late = await world.submit("late")
    await world.sweep()
    for job_id in [*waiting, late]:
        job = await world.job(job_id)
        assert (job["status"], job["status_reason"], job["attempts"]) == ("queued", "engine_paused", 0)
        assert job["status_detail"] == f"acme--echo is paused: {shown['reason']}"
    assert not {event.id for event in world.runner.events} & {*waiting, late}


async def test_its_owner_is_told_once(world: GatewayWorld) -> None:
    await paused(world)
    await until_async(lambda: told(world))
    (event,) = told(world)
    assert event["type"] == "dev.enginehouse.engine.paused.v1"
    assert event["data"]["engine"] == ECHO
    assert event["data"]["reason"] == engine(world).reason
    assert event["tenantid"] == "acme"


async def test_other_engines_go_on(world: GatewayWorld) -> None:
    await paused(world)
    job_id = await world.submit(engine="standard")
    assert (await world.job(job_id, wait=5))["status"] == "succeeded"


async def test_one_job_is_let_through_to_see_and_when_it_works_the_rest_follows_in_order(world: GatewayWorld) -> None:
    waiting = await paused(world)
    before = len(world.runner.events)
    go = asyncio.Event()

    async def hold(runner: ScriptedRunner, event: HandedJob) -> bool:
        await go.wait()
        return await succeed(runner, event)

    world.runner.answer = hold
    await probe_now(world)
    await until_async(lambda: len(world.runner.events) > before)
    await world.sweep()
    assert [event.id for event in world.runner.events[before:]] == waiting[:1]
    assert world.gateway.dispatcher.window(ECHO) == 1
    go.set()
    for job_id in waiting:
        assert (await world.job(job_id, wait=5))["status"] == "succeeded"
    assert [event.id for event in world.runner.events[before:]] == waiting
    assert engine(world).state == EngineState.ACTIVE
    await until_async(lambda: told_kinds(world) == ["paused", "active"])


async def test_a_probe_that_fails_pauses_again_and_is_no_news(world: GatewayWorld) -> None:
    waiting = await paused(world)
    await probe_now(world)
    await until_async(lambda: engine(world).breaker.failed_probes == 1)
    await until_async(lambda: world.gateway.dispatcher.window(ECHO) == 0)
    assert (await world.job(waiting[0]))["status"] == "failed"
    assert (await world.job(waiting[1]))["status_reason"] == "engine_paused"
    assert told_kinds(world) == ["paused"]


async def test_what_was_in_hand_when_it_was_paused_does_not_end_the_pause(world: GatewayWorld) -> None:
    held: list[HandedJob] = []

    async def hold(runner: ScriptedRunner, event: HandedJob) -> bool:
        held.append(event)
        return True

    world.runner.answer = hold
    await submit_many(world, WINDOW)
    await until_async(lambda: len(held) == WINDOW)
    await world.gateway.transitions.move(engine(world), EngineState.PAUSED, "to see", time.time() + 3_600)
    waiting = await world.submit("waits")
    await world.runner.end(held[0])
    await world.until_status(held[0].id, Status.SUCCEEDED)
    assert engine(world).state == EngineState.PAUSED
    assert (await world.job(waiting))["status_reason"] == "engine_paused"


@pytest.mark.parametrize("code", sorted(breaker.NEUTRAL))
async def test_ends_that_say_nothing_about_the_engine_do_not_count(world: GatewayWorld, code: str) -> None:
    async def reject(runner: ScriptedRunner, event: HandedJob) -> bool:
        await runner.end(event, Status.FAILED, error=JobError(code=code, message="the caller's own"))
        return True

    world.runner.answer = reject
    for job_id in await submit_many(world, 2 * breaker.TRIP_AFTER):
        assert (await world.job(job_id, wait=5))["status"] == "failed"
    assert engine(world).state == EngineState.ACTIVE


async def test_a_clock_shorter_than_the_cards_does_not_count(world: GatewayWorld) -> None:
    world.runner.answer = late
    for _ in range(2 * breaker.TRIP_AFTER):
        job_id = await world.submit(execution_timeout_seconds=0.001)
        assert (await world.job(job_id, wait=5))["status"] == "timed_out"
    assert engine(world).state == EngineState.ACTIVE
    assert len(engine(world).breaker.failed_jobs) == 0


@pytest.mark.parametrize("seconds", [None, 60, 61])
async def test_a_clock_as_long_as_the_cards_does(world: GatewayWorld, seconds: float | None) -> None:
    world.runner.answer = late
    for _ in range(breaker.TRIP_AFTER):
        await world.submit(execution_timeout_seconds=seconds)
    await until_async(lambda: engine(world).state == EngineState.PAUSED)
    assert "PREDICT_TIMEOUT" in str(engine(world).reason)


async def test_a_retry_that_waits_for_a_paused_engine_says_so(world: GatewayWorld) -> None:
    async def later(runner: ScriptedRunner, event: HandedJob) -> bool:
        await runner.end(event, Status.QUEUED, error=JobError(code="X", message="x", retryable=True))
        return True

    world.runner.answer = later
    job_id = await world.submit()
    await until_async(lambda: len(engine(world).breaker.failed_jobs))
    await world.gateway.transitions.move(engine(world), EngineState.PAUSED, "to see", None)
    assert (await world.job(job_id))["status_reason"] == "engine_paused"


async def test_two_bad_inputs_pause_nothing_however_often_they_are_tried(world: GatewayWorld) -> None:
    world.runner.answer = retry
    jobs = [await world.submit(number, retry={"max_attempts": 20, "initial_delay_ms": 0}) for number in range(2)]
    for job_id in jobs:
        assert (await world.job(job_id, wait=5))["attempts"] == 20
    assert engine(world).state == EngineState.ACTIVE
    assert len(engine(world).breaker.failed_jobs) == 2


async def fail_for_acme(runner: ScriptedRunner, event: HandedJob) -> bool:
    return await (fail if event.tenantid == "acme" else succeed)(runner, event)


async def test_the_failing_jobs_of_one_tenant_pause_no_shared_engine(world: GatewayWorld) -> None:
    world.runners[STANDARD].answer = fail_for_acme
    for number in range(10 * breaker.TRIP_AFTER):
        await world.submit(number, engine="standard")
    theirs = await world.submit("theirs", tenant="umbra", engine="standard")
    assert (await world.job(theirs, tenant="umbra", wait=5))["status"] == "succeeded"
    await world.idle()
    shared = world.gateway.catalogue.get(STANDARD)
    assert shared is not None
    assert shared.state == EngineState.ACTIVE


async def test_a_shared_engine_that_fails_for_all_is_paused_and_a_tenant_for_whom_it_works_ends_that(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.05)
    world.runners[STANDARD].answer = fail
    shared = world.gateway.catalogue.get(STANDARD)
    assert shared is not None
    for number in range(breaker.TRIP_AFTER):
        await world.submit(number, tenant="acme" if number % 2 else "umbra", engine="standard")
    await until_async(lambda: shared.state == EngineState.PAUSED)
    world.runners[STANDARD].answer = fail_for_acme
    for number in range(20):
        await world.submit(number, engine="standard")
    theirs = await world.submit("theirs", tenant="umbra", engine="standard")
    assert (await world.job(theirs, tenant="umbra", wait=10))["status"] == "succeeded"
    await until_async(lambda: shared.state == EngineState.ACTIVE)


async def redeploy(world: GatewayWorld, deployment: str) -> None:
    await show_card(world.dapr, ECHO, deployment=deployment)
    await world.gateway.catalogue.read_card(ECHO)


async def test_a_new_deployment_starts_with_a_closed_breaker(world: GatewayWorld) -> None:
    await redeploy(world, "one")
    waiting = await paused(world)
    await redeploy(world, "one")
    assert engine(world).state == EngineState.PAUSED, "the same deployment shows its card again"
    world.runner.answer = succeed
    await redeploy(world, "two")
    assert (engine(world).state, engine(world).reason) == (EngineState.ACTIVE, None)
    assert len(engine(world).breaker.failed_jobs) == 0
    for job_id in waiting:
        assert (await world.job(job_id, wait=5))["status"] == "succeeded"


async def test_an_engine_shows_what_slows_its_jobs(world: GatewayWorld) -> None:
    await world.runner.beat(warning="predict is `async` but blocks the event loop")
    engine(world).workers_read_at = 0
    shown = (await world.client().get("/v1/engines/echo")).json()
    assert (shown["state"], shown["warning"]) == ("active", "predict is `async` but blocks the event loop")
