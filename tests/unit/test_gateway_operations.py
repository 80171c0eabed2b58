"""Engines that fail are paused, those that go on failing are quarantined, and operators stop, start and empty them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.gateway import ECHO, STANDARD, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner, fail, lose, never, succeed
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.events import ENGINE_STATE_EVENTS, JobEvent
from enginehouse.contracts.job import JobError, Status
from enginehouse.gateway.engines import breaker
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.ledger import read
from enginehouse.gateway.pace import Pace
from enginehouse.sidecar.fake import FakeDapr

WINDOW = 10
ECHO_STORE = names.results_component(ECHO)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=Pace(store_seconds=0.2), window_min=WINDOW, window_factor=1) as made:
        yield made


@pytest.fixture
def _long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 3_600)


def engine(world: GatewayWorld) -> KnownEngine:
    found = world.gateway.catalogue.get(ECHO)
    assert found is not None
    return found


async def submit_many(world: GatewayWorld, times: int) -> list[str]:
    return [await world.submit(number) for number in range(times)]


async def listed(world: GatewayWorld) -> dict[str, dict[str, Any]]:
    answer = await world.client().get("/v1/jobs", params={"limit": 1_000})
    return {job["id"]: job for job in answer.json()["jobs"]}


async def operate(world: GatewayWorld, what: str, body: Any = None, engine_id: str = ECHO) -> httpx2.Response:
    return await world.client("admin").post(f"/v1/engines/{engine_id}/{what}", json=body)


def told(world: GatewayWorld, tenant: str = "acme") -> list[dict[str, Any]]:
    """What the tenant's own systems heard."""
    return [json.loads(event) for event in world.dapr.published[names.finished_topic(tenant)]]


def told_kinds(world: GatewayWorld) -> list[str]:
    transitions = {kind: state for state, kind in ENGINE_STATE_EVENTS.items()}
    return [transitions[event["type"]] for event in told(world)]


def control(dapr: FakeDapr) -> Any:
    entry = dapr.stores[ECHO_STORE].get(names.CONTROL_KEY)
    return json.loads(entry.value) if entry else None


async def probe_now(world: GatewayWorld) -> None:
    """The pause is over."""
    known = engine(world)
    await world.gateway.catalogue.set_state(known, EngineState.PAUSED, known.reason, time.time() - 1)
    world.gateway.dispatcher.wake(ECHO)


async def paused(world: GatewayWorld, more: int = 20) -> list[str]:
    """Let the engine fail until it is paused; the jobs that wait for it, in order."""
    go = asyncio.Event()

    async def fail_together(runner: ScriptedRunner, event: JobEvent) -> bool:
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


async def late(runner: ScriptedRunner, event: JobEvent) -> bool:
    error = JobError(code="PREDICT_TIMEOUT", message="too late", retryable=True)
    await runner.end(event, Status.TIMED_OUT, error=error)
    return True


async def in_window_is_empty(world: GatewayWorld) -> bool:
    found = await listed(world)
    failed = sum(1 for job in found.values() if job["status"] == "failed")
    return failed == len(world.runner.events)


@pytest.mark.usefixtures("_long_pauses")
class TestPause:
    """Failures over a window pause an engine; probes let it go on."""

    async def test_the_jobs_of_a_failing_engine_wait_and_burn_nothing(self, world: GatewayWorld) -> None:
        waiting = await paused(world)
        assert 0 < len(waiting) <= 20
        shown = (await world.client().get("/v1/engines/echo")).json()
        assert shown["state"] == "paused"
        assert "attempts failed; the last: PREDICT_ERROR" in shown["reason"]
        assert world.gateway.dispatcher.window(ECHO) == 0
        late = await world.submit("late")
        await world.sweep()
        for job_id in [*waiting, late]:
            job = await world.job(job_id)
            assert (job["status"], job["status_reason"], job["attempts"]) == ("queued", "engine_paused", 0)
        assert not {event.id for event in world.runner.events} & {*waiting, late}

    async def test_its_owner_is_told_once(self, world: GatewayWorld) -> None:
        await paused(world)
        await until_async(lambda: told(world))
        (event,) = told(world)
        assert event["type"] == "dev.enginehouse.engine.paused.v1"
        assert event["data"]["engine"] == ECHO
        assert event["data"]["reason"] == engine(world).reason
        assert event["tenantid"] == "acme"

    async def test_other_engines_go_on(self, world: GatewayWorld) -> None:
        await paused(world)
        job_id = await world.submit(engine="standard")
        assert (await world.job(job_id, wait=5))["status"] == "succeeded"

    async def test_one_job_is_let_through_to_see_and_when_it_works_the_rest_follows_in_order(
        self, world: GatewayWorld
    ) -> None:
        waiting = await paused(world)
        before = len(world.runner.events)
        go = asyncio.Event()

        async def hold(runner: ScriptedRunner, event: JobEvent) -> bool:
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

    async def test_a_probe_that_fails_pauses_again_and_is_no_news(self, world: GatewayWorld) -> None:
        waiting = await paused(world)
        await probe_now(world)
        await until_async(lambda: engine(world).breaker.failed_probes == 1)
        await until_async(lambda: world.gateway.dispatcher.window(ECHO) == 0)
        assert (await world.job(waiting[0]))["status"] == "failed"
        assert (await world.job(waiting[1]))["status_reason"] == "engine_paused"
        assert told_kinds(world) == ["paused"]

    async def test_what_was_in_hand_when_it_was_paused_does_not_end_the_pause(self, world: GatewayWorld) -> None:
        held: list[JobEvent] = []

        async def hold(runner: ScriptedRunner, event: JobEvent) -> bool:
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
    async def test_ends_that_say_nothing_about_the_engine_do_not_count(self, world: GatewayWorld, code: str) -> None:
        async def reject(runner: ScriptedRunner, event: JobEvent) -> bool:
            await runner.end(event, Status.FAILED, error=JobError(code=code, message="the caller's own"))
            return True

        world.runner.answer = reject
        for job_id in await submit_many(world, 2 * breaker.TRIP_AFTER):
            assert (await world.job(job_id, wait=5))["status"] == "failed"
        assert engine(world).state == EngineState.ACTIVE

    async def test_a_clock_shorter_than_the_cards_does_not_count(self, world: GatewayWorld) -> None:
        world.runner.answer = late
        for _ in range(2 * breaker.TRIP_AFTER):
            job_id = await world.submit(execution_timeout_seconds=0.001)
            assert (await world.job(job_id, wait=5))["status"] == "timed_out"
        assert engine(world).state == EngineState.ACTIVE
        assert not engine(world).breaker.outcomes

    @pytest.mark.parametrize("seconds", [None, 60, 61])
    async def test_a_clock_as_long_as_the_cards_does(self, world: GatewayWorld, seconds: float | None) -> None:
        world.runner.answer = late
        for _ in range(breaker.TRIP_AFTER):
            await world.submit(execution_timeout_seconds=seconds)
        await until_async(lambda: engine(world).state == EngineState.PAUSED)
        assert "PREDICT_TIMEOUT" in str(engine(world).reason)

    async def test_a_retry_that_waits_for_a_paused_engine_says_so(self, world: GatewayWorld) -> None:
        async def later(runner: ScriptedRunner, event: JobEvent) -> bool:
            await runner.end(event, Status.QUEUED, error=JobError(code="X", message="x", retryable=True))
            return True

        world.runner.answer = later
        job_id = await world.submit()
        await until_async(lambda: engine(world).breaker.outcomes)
        await world.gateway.transitions.move(engine(world), EngineState.PAUSED, "to see", None)
        assert (await world.job(job_id))["status_reason"] == "engine_paused"


class TestQuarantineByItself:
    """Who fails every probe, or answers nonsense, is stopped until somebody has looked."""

    async def test_failed_probes_in_a_row_are_a_quarantine(
        self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.001)
        monkeypatch.setattr(breaker, "LONGEST_PAUSE_SECONDS", 0.001)
        world.runner.answer = fail
        await submit_many(world, 60)
        await until_async(lambda: engine(world).state == EngineState.QUARANTINED)
        ran = len(world.runner.events)
        assert engine(world).reason == "8 probes in a row failed; the last: PREDICT_ERROR"
        await until_async(lambda: told_kinds(world) == ["paused", "quarantined"])
        await until_async(lambda: control(world.dapr) == {"stopped": True})
        await world.sweep()
        assert (len(world.runner.events), world.gateway.dispatcher.window(ECHO)) == (ran, 0)
        waiting = [job for job in (await listed(world)).values() if job["status"] == "queued"]
        assert len(waiting) == 60 - ran
        assert {(job["status_reason"], job["attempts"]) for job in waiting} == {("engine_paused", 0)}

    @pytest.mark.parametrize("code", sorted(breaker.NONSENSE))
    async def test_nonsense_in_a_row_is_a_quarantine(self, tmp_path: Path, code: str) -> None:
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

    async def test_its_runner_is_told_even_if_the_store_is_away_when_an_operator_repeats_it(
        self, world: GatewayWorld
    ) -> None:
        world.dapr.missing.add(ECHO_STORE)
        problem_of(await operate(world, "quarantine", {"reason": "it lies"}), 503, "UNAVAILABLE")
        assert (engine(world).state, control(world.dapr)) == (EngineState.QUARANTINED, None)
        world.dapr.missing.clear()
        assert (await operate(world, "quarantine", {"reason": "it lies"})).status_code == 200
        assert control(world.dapr) == {"stopped": True}
        await until_async(lambda: told_kinds(world) == ["quarantined"])

    async def test_its_runner_is_told_by_the_sweep_when_the_store_was_away(self, world: GatewayWorld) -> None:
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

    async def test_its_runner_is_told_by_the_next_gateway(self, tmp_path: Path) -> None:
        dapr = FakeDapr()
        async with gateway_world(tmp_path, dapr=dapr) as before:
            dapr.missing.add(ECHO_STORE)
            problem_of(await operate(before, "quarantine", {"reason": "it lies"}), 503, "UNAVAILABLE")
        dapr.handlers.clear()
        dapr.missing.clear()
        async with gateway_world(tmp_path, dapr=dapr):
            await until_async(lambda: control(dapr) == {"stopped": True})

    async def test_its_runner_goes_on_when_another_gateway_resumed_it_meanwhile(self, world: GatewayWorld) -> None:
        await operate(world, "quarantine", {"reason": "it lies"})
        await world.gateway.ledger.set_engine_state(ECHO, EngineState.ACTIVE, None, None)
        await world.gateway.catalogue.sync_states()
        world.dapr.missing.add(ECHO_STORE)
        await world.gateway.transitions.catch_up()
        assert control(world.dapr) == {"stopped": True}
        world.dapr.missing.clear()
        await world.gateway.transitions.catch_up()
        assert control(world.dapr) == {"stopped": False}

    async def test_a_store_that_hangs_keeps_no_other_runner_from_being_told(
        self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put, other = world.gateway.sidecar.put, world.gateway.catalogue.get(STANDARD)
        assert other is not None

        async def hang(store: str, key: str, value: bytes, ttl_seconds: int | None = None) -> None:
            if store == names.results_component(ECHO):
                await asyncio.sleep(3_600)
            await put(store, key, value, ttl_seconds)

        monkeypatch.setattr(world.gateway.sidecar, "put", hang)
        for known in (engine(world), other):
            await world.gateway.catalogue.set_state(known, EngineState.QUARANTINED, "it lies")
        await asyncio.wait_for(world.gateway.transitions.catch_up(), 5)
        assert names.CONTROL_KEY in world.dapr.stores[names.results_component(STANDARD)]
        assert control(world.dapr) is None


class TestOperators:
    """Quarantine, resume, purge, and who may do them."""

    async def test_quarantine_stops_delivery_and_says_why(self, world: GatewayWorld) -> None:
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

    async def test_it_survives_a_restart_and_resume_drains_in_order(self, tmp_path: Path) -> None:
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

    async def test_an_engine_without_a_readable_card_stays_quarantined_too(self, tmp_path: Path) -> None:
        dapr = FakeDapr()
        dapr.fail("read_many", times=50)
        async with gateway_world(tmp_path, dapr=dapr) as before:
            await operate(before, "quarantine", {"reason": "it lies"})
        async with gateway_world(tmp_path, dapr=dapr) as world:
            assert (engine(world).state, engine(world).reason) == (EngineState.QUARANTINED, "it lies")

    async def test_a_look_at_the_ledger_that_began_before_does_not_undo_it(
        self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
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

    async def test_removed_and_deployed_again_it_is_still_quarantined(self, world: GatewayWorld) -> None:
        await operate(world, "quarantine", {"reason": "it lies"})
        await remove(world)
        problem_of(await operate(world, "resume"), 404, "ENGINE_DOES_NOT_EXIST")
        world.dapr.components.add(names.results_component(ECHO))
        await world.gateway.catalogue.refresh()
        assert (engine(world).state, engine(world).reason) == (EngineState.QUARANTINED, "it lies")
        await operate(world, "resume")
        assert (engine(world).state, engine(world).reason) == (EngineState.ACTIVE, None)

    async def test_purge_cancels_what_waits_and_leaves_what_runs(self, world: GatewayWorld) -> None:
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

    async def test_a_job_on_its_way_that_was_purged_is_not_run_by_who_gets_it(self, world: GatewayWorld) -> None:
        world.runner.answer = lose
        job_id = await world.submit()
        event = await world.delivered(job_id)
        assert (await operate(world, "purge")).json() == {"canceled": 1}
        assert (await world.runner.write(event, Status.SUCCEEDED)).status is Status.CANCELED

    @pytest.mark.parametrize("what", ["quarantine", "resume", "purge"])
    async def test_only_an_administrators_key_does(self, world: GatewayWorld, what: str) -> None:
        body = {"reason": "mine"} if what == "quarantine" else None
        problem_of(await world.client().post(f"/v1/engines/{ECHO}/{what}", json=body), 403, "FORBIDDEN")
        problem_of(await operate(world, what, body, "acme--no-such"), 404, "ENGINE_DOES_NOT_EXIST")
        assert engine(world).state == EngineState.ACTIVE

    @pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "x", "more": 1}, []])
    async def test_a_quarantine_has_a_reason(self, world: GatewayWorld, body: Any) -> None:
        problem_of(await operate(world, "quarantine", body), 422, "INVALID_REQUEST")
        assert engine(world).state == EngineState.ACTIVE


async def remove(world: GatewayWorld) -> None:
    """As the gateway learns it: the engine's component is gone from its sidecar."""
    world.dapr.components.discard(names.results_component(ECHO))

    async def gone() -> bool:
        await world.gateway.catalogue.refresh()
        return engine(world).state == EngineState.RETIRED

    await until_async(gone)


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
        assert (await world.client().get(f"/v1/engines/{ECHO}")).json()["reason"] is None

        (tmp_path / "engines" / ECHO).rmdir()
        await remove(world)


async def test_workers_that_receive_nothing_are_told_of(world: GatewayWorld) -> None:
    await world.runner.beat(subscribed=False)
    engine(world).workers_read_at = 0
    shown = (await world.client().get(f"/v1/engines/{ECHO}")).json()
    assert "receives jobs" in shown["reason"]
