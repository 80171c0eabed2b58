"""An accepted job reaches a final state, whatever is away, gets lost or comes late; and is not run again for waiting."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, STANDARD, Clock, GatewayWorld, gateway_world
from tests.support.scripted_runner import ScriptedRunner, fail, lose, never, succeed, succeed_untold
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.job import Status
from enginehouse.gateway.pace import Pace
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    """Stores have little time, and every ended job is sampled."""
    pace = Pace(clock=clock, broker_retry_seconds=0.05, store_seconds=0.2, sample_every_seconds=0)
    async with gateway_world(tmp_path, pace=pace) as made:
        yield made


async def sweep_in(world: GatewayWorld, clock: Clock, seconds: float) -> None:
    """Let that much time pass for the sweep, and sweep."""
    clock.ahead += seconds
    await world.sweep()
    await world.idle()


class TestBroker:
    """The broker is away, or its answer is lost"""

    async def test_while_it_is_away_jobs_are_accepted_and_follow_later(self, world: GatewayWorld) -> None:
        world.dapr.fail("publish", times=3)
        job_id = await world.submit()
        job = await world.job(job_id)
        assert job["status"] == "queued"

        async def waits() -> bool:
            return bool((await world.job(job_id))["status_reason"] == "waiting_for_broker")

        await until_async(waits)
        assert world.runner.events == []
        job = await world.until_status(job_id, Status.SUCCEEDED)
        assert job["status_reason"] is None

    async def test_many_jobs_accepted_while_it_is_away_all_follow_in_order(self, world: GatewayWorld) -> None:
        world.dapr.fail("publish", times=60)
        world.dapr.fail("publish_many", times=1)
        ids = await asyncio.gather(*(world.submit(number) for number in range(50)))
        jobs = await asyncio.gather(*(world.job(job_id, wait=20) for job_id in ids))
        assert {job["status"] for job in jobs} == {"succeeded"}
        assert len(world.runner.events) == 50

    async def test_an_answer_that_got_lost_does_not_lose_the_job_nor_end_it_twice(self, world: GatewayWorld) -> None:
        world.dapr.fail("publish", after_doing=True)
        job_id = await world.submit()
        await world.until_status(job_id, Status.SUCCEEDED)
        await asyncio.sleep(0)
        await world.idle()
        job = await world.job(job_id)
        assert (job["status"], job["output"]) == ("succeeded", {"echo": "hello"})

    async def test_one_engines_broker_does_not_hold_up_another(self, world: GatewayWorld) -> None:
        world.dapr.forbidden_topics.add(("jobs", names.job_topic(ECHO)))
        stuck = await world.submit()
        other = await world.submit(engine="standard")
        await world.until_status(other, Status.SUCCEEDED)
        assert (await world.job(stuck))["status"] == "queued"
        world.dapr.forbidden_topics.clear()
        await world.until_status(stuck, Status.SUCCEEDED)

    async def test_a_caller_can_wait_through_it(self, world: GatewayWorld) -> None:
        world.dapr.fail("publish", times=2)
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Prefer": "wait=10"})
        assert answer.status_code == 200


class TestCompletions:
    """A completion is a hint: late, twice, lost, or nonsense"""

    async def test_one_that_got_lost_is_found_by_the_sweep(self, world: GatewayWorld, clock: Clock) -> None:
        world.runner.answer = succeed_untold
        job_id = await world.submit()
        waiting = asyncio.create_task(world.job(job_id, wait=30))
        await world.delivered(job_id)
        await until_async(lambda: world.record(job_id))
        assert (await world.job(job_id))["status"] == "queued"
        await sweep_in(world, clock, 3)
        assert (await asyncio.wait_for(waiting, 5))["status"] == "succeeded"
        assert len(world.runner.events) == 1

    async def test_one_that_comes_while_the_store_is_away_is_made_up_for(self, world: GatewayWorld) -> None:
        world.dapr.fail("read_many")
        job_id = await world.submit()
        await until_async(lambda: not world.dapr.failures["read_many"])
        await world.idle()
        assert (await world.job(job_id))["status"] == "queued"
        await world.aged(job_id, 3)
        await world.sweep()
        assert (await world.job(job_id))["status"] == "succeeded"

    async def test_an_error_that_nobody_foresaw_does_not_stop_those_that_follow(self, world: GatewayWorld) -> None:
        world.dapr.fail("read_many", RuntimeError("nobody foresaw this"))
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
    async def test_nonsense_is_acknowledged_and_forgotten(self, world: GatewayWorld, body: bytes) -> None:
        before = await world.stored()
        assert await world.gateway.hints.deliver(body)
        assert await world.stored() == before
        await world.until_status(await world.submit(), Status.SUCCEEDED)

    async def test_those_of_a_job_that_nobody_accepted_are_acknowledged(self, world: GatewayWorld) -> None:
        await world.runner.tell("dev.enginehouse.job.completed.v1", names.new_job_id(), Status.SUCCEEDED, 1)
        await world.idle()

    async def test_a_record_that_cannot_be_read_stops_no_other(self, world: GatewayWorld) -> None:
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


class TestWorkers:
    """A worker vanished, or a job on its way got lost; and neither of the two"""

    async def test_what_a_vanished_worker_ran_is_handed_over_again(self, world: GatewayWorld, clock: Clock) -> None:
        world.runner.answer = never
        job_id = await world.submit()
        await world.until_status(job_id, Status.RUNNING)
        await world.aged(job_id, 60)
        other = ScriptedRunner(FakeDapr(), ECHO, "worker-2")
        other.sidecar = world.runner.sidecar
        await other.beat()
        world.runner.answer = succeed
        await sweep_in(world, clock, 1)
        assert len(world.runner.events) == 1
        await sweep_in(world, clock, 10)
        await world.delivered(job_id, times=2)
        job = await world.until_status(job_id, Status.SUCCEEDED)
        assert [event.attempt for event in world.runner.events] == [1, 2]
        assert job["attempts"] == 2

    async def test_what_a_living_worker_runs_is_left_to_it_however_long_it_takes(
        self, world: GatewayWorld, clock: Clock
    ) -> None:
        world.runner.answer = never
        job_id = await world.submit()
        await world.until_status(job_id, Status.RUNNING)
        await world.aged(job_id, 100_000)
        for _ in range(5):
            await world.runner.beat(in_hand=[job_id])
            await sweep_in(world, clock, 60)
        assert len(world.runner.events) == 1
        assert (await world.job(job_id))["status"] == "running"

    async def test_a_job_that_waits_behind_others_is_never_handed_over_again(
        self, world: GatewayWorld, clock: Clock
    ) -> None:
        world.runner.answer = lose
        running, waiting = await world.submit(1), await world.submit(2)
        first = await world.delivered(running)
        await world.delivered(waiting)
        await world.runner.claim(first)
        for job_id in (running, waiting):
            await world.aged(job_id, 100_000)
        for _ in range(5):
            await world.runner.beat(in_hand=[running])
            await sweep_in(world, clock, 600)
        assert [event.id for event in world.runner.events] == [running, waiting]

    async def test_a_job_that_an_idle_worker_does_not_get_is_handed_over_again(
        self, world: GatewayWorld, clock: Clock
    ) -> None:
        world.runner.answer = lose
        job_id = await world.submit()
        await world.delivered(job_id)
        await world.aged(job_id, 5)
        await world.runner.beat(idle_for=5)
        await sweep_in(world, clock, 0)
        assert len(world.runner.events) == 1
        world.runner.answer = succeed
        await world.aged(job_id, 55)
        await world.runner.beat(idle_for=60)
        await sweep_in(world, clock, 0)
        await world.until_status(job_id, Status.SUCCEEDED)
        assert [event.attempt for event in world.runner.events] == [1, 1]

    async def test_an_unhealthy_worker_that_is_idle_proves_nothing(self, world: GatewayWorld, clock: Clock) -> None:
        world.runner.answer = lose
        job_id = await world.submit()
        await world.delivered(job_id)
        await world.aged(job_id, 1_000)
        await world.runner.beat(idle_for=1_000, healthy=False)
        await sweep_in(world, clock, 0)
        assert len(world.runner.events) == 1

    async def test_a_job_that_is_handed_over_for_ever_ends_as_a_dead_letter(
        self, world: GatewayWorld, clock: Clock
    ) -> None:
        world.runner.answer = lose
        job_id = await world.submit()
        await world.delivered(job_id)
        for _ in range(25):
            await world.aged(job_id, 1_000)
            await world.runner.beat(idle_for=1_000)
            await sweep_in(world, clock, 0)
            if (await world.job(job_id))["status"] != "queued":
                break
        job = await world.job(job_id)
        assert (job["status"], job["error"]["code"], job["dead_lettered"]) == ("failed", "WORKER_LOST", True)
        assert (await world.stored())["dead_letters"] == 1
        assert len(world.runner.events) == 20

    async def test_a_record_that_cannot_be_read_is_given_up_like_any_and_others_are_handed_over_again(
        self, world: GatewayWorld, clock: Clock
    ) -> None:
        world.runner.answer = lose
        hopeless, other = await world.submit("hopeless"), await world.submit("other")
        await world.delivered(hopeless)
        await world.delivered(other)
        await world.sidecar.put(names.results_component(ECHO), hopeless, b"no record")
        await world.change(hopeless, hand_overs=20)
        for job_id in (hopeless, other):
            await world.aged(job_id, 100_000)
        await world.runner.beat(idle_for=100_000)
        await sweep_in(world, clock, 0)
        await world.delivered(other, 2)
        job = await world.job(hopeless)
        assert (job["status"], job["error"]["code"]) == ("failed", "WORKER_LOST")

    @pytest.mark.parametrize("garbage", [b"no heartbeat", b"{}", b"\xff"])
    async def test_a_heartbeat_that_cannot_be_read_stops_nothing(
        self, world: GatewayWorld, clock: Clock, garbage: bytes
    ) -> None:
        world.runner.answer = lose
        job_id = await world.submit()
        await world.delivered(job_id)
        await world.aged(job_id, 100)
        await world.runner.beat(idle_for=60)
        store = names.results_component(ECHO)
        workers = b'{"workers":["worker-1","worker-2"]}'
        await world.sidecar.put(store, names.WORKERS_KEY, workers)
        await world.sidecar.put(store, names.worker_key("worker-2"), garbage)
        world.runner.answer = succeed
        await sweep_in(world, clock, 0)
        await world.until_status(job_id, Status.SUCCEEDED)
        assert (await world.client().get("/v1/engines/echo")).status_code == 200
        await world.sidecar.put(store, names.WORKERS_KEY, garbage)
        for engine in world.gateway.catalogue:
            engine.workers_read_at = 0
        assert (await world.client().get("/v1/engines")).status_code == 200


class TestClocks:
    """The queue clock"""

    async def test_a_job_whose_queue_clock_is_over_expires_and_does_not_run(
        self, world: GatewayWorld, clock: Clock
    ) -> None:
        world.runner.answer = lose
        job_id = await world.submit(max_time_in_queue_seconds=10)
        event = await world.delivered(job_id)
        await sweep_in(world, clock, 9)
        assert (await world.job(job_id))["status"] == "queued"
        waiting = asyncio.create_task(world.job(job_id, wait=30))
        await asyncio.sleep(0.01)
        await sweep_in(world, clock, 2)
        job = await asyncio.wait_for(waiting, 5)
        assert (job["status"], job["error"]["code"]) == ("expired", "EXPIRED")
        assert "10" in job["error"]["message"]
        await succeed(world.runner, event)
        assert (await world.job(job_id))["status"] == "expired"

    async def test_a_job_that_runs_does_not_expire(self, world: GatewayWorld, clock: Clock) -> None:
        world.runner.answer = never
        job_id = await world.submit(max_time_in_queue_seconds=10)
        await world.until_status(job_id, Status.RUNNING)
        await sweep_in(world, clock, 1_000)
        assert (await world.job(job_id))["status"] == "running"

    async def test_a_job_whose_worker_vanished_expires_when_it_is_too_late_to_run_it_again(
        self, world: GatewayWorld, clock: Clock
    ) -> None:
        world.runner.answer = never
        job_id = await world.submit(max_time_in_queue_seconds=10)
        await world.until_status(job_id, Status.RUNNING)
        await world.aged(job_id, 60)
        await world.change(job_id, queue_deadline=time.time() - 1)
        other = ScriptedRunner(FakeDapr(), ECHO, "worker-2")
        other.sidecar = world.runner.sidecar
        for _ in range(4):
            await other.beat()
            await sweep_in(world, clock, 10)
        job = await world.job(job_id)
        assert (job["status"], job["attempts"]) == ("expired", 1)

    async def test_nor_does_one_that_runs_unknown_to_the_ledger(self, world: GatewayWorld, clock: Clock) -> None:
        world.runner.answer = lose
        job_id = await world.submit(max_time_in_queue_seconds=10)
        event = await world.delivered(job_id)
        await world.runner.write(event, Status.RUNNING)
        await sweep_in(world, clock, 1_000)
        assert (await world.job(job_id))["status"] == "running"

    async def test_an_engine_whose_store_is_away_does_not_keep_others_from_expiring(
        self, world: GatewayWorld, clock: Clock
    ) -> None:
        for runner in world.runners.values():
            runner.answer = lose
        stuck = [await world.submit(max_time_in_queue_seconds=10) for _ in range(3)]
        other = await world.submit(engine="standard", max_time_in_queue_seconds=10)
        world.dapr.missing.add(names.results_component(ECHO))
        clock.ahead += 60
        await world.sweep()
        assert (await world.job(other))["status"] == "expired"
        assert {(await world.job(job_id))["status"] for job_id in stuck} == {"queued"}
        world.dapr.missing.clear()
        await sweep_in(world, clock, 1)
        assert {(await world.job(job_id))["status"] for job_id in stuck} == {"expired"}

    async def test_a_store_that_hangs_delays_no_other_engine_for_long(
        self, world: GatewayWorld, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for runner in world.runners.values():
            runner.answer = lose
        stuck, late = [await world.submit(max_time_in_queue_seconds=10) for _ in range(3)], await world.submit("late")
        other = await world.submit(engine="standard", max_time_in_queue_seconds=10)
        begun = await world.submit(engine="standard")
        event = await world.delivered(begun, engine=STANDARD)
        await world.delivered(late)
        await world.runners[STANDARD].end(event, tell=False)
        sidecar = world.gateway.sidecar
        read, read_many = sidecar.read, sidecar.read_many

        async def hang(store: str, key: str) -> Any:
            await asyncio.sleep(3_600 if store == names.results_component(ECHO) else 0)
            return await read(store, key)

        async def hang_many(store: str, keys: Any) -> Any:
            await asyncio.sleep(3_600 if store == names.results_component(ECHO) else 0)
            return await read_many(store, keys)

        monkeypatch.setattr(sidecar, "read", hang)
        monkeypatch.setattr(sidecar, "read_many", hang_many)
        clock.ahead += 60
        await asyncio.wait_for(world.sweep(), 5)
        assert (await world.job(other))["status"] == "expired"
        assert (await world.job(begun))["status"] == "succeeded"
        assert {(await world.job(job_id))["status"] for job_id in [*stuck, late]} == {"queued"}

    @pytest.mark.parametrize("garbage", [b"no record", b"{}", b"\xff", b""])
    async def test_a_record_that_cannot_be_read_keeps_no_other_job_from_expiring(
        self, world: GatewayWorld, clock: Clock, garbage: bytes
    ) -> None:
        world.runner.answer = lose
        ids = [await world.submit(max_time_in_queue_seconds=10) for _ in range(3)]
        await world.sidecar.put(names.results_component(ECHO), ids[0], garbage)
        clock.ahead += 60
        await world.sweep()
        for job_id in ids:
            job, record = await world.job(job_id), world.record(job_id)
            assert (job["status"], job["error"]["code"]) == ("expired", "EXPIRED")
            assert record
            assert record.status is Status.EXPIRED


class TestRestart:
    """The gateway itself went away"""

    async def test_what_was_accepted_by_the_one_before_is_finished_by_the_next(self, tmp_path: Path) -> None:
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

    async def test_before_its_sidecar_is_there_it_accepts_jobs_for_the_engines_it_knew(self, tmp_path: Path) -> None:
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

    async def test_while_its_sidecar_shows_nothing_for_a_moment_no_engine_is_lost(self, world: GatewayWorld) -> None:
        world.dapr.components.clear()
        for _ in range(3):
            await world.gateway.catalogue.refresh()
            assert await world.submit()
        world.dapr.components |= {names.results_component(ECHO), names.results_component(STANDARD)}
        await world.gateway.catalogue.refresh()
        assert {engine.id for engine in world.gateway.catalogue if engine.state == EngineState.RETIRED} == set()

    async def test_not_ready_before_it_knows_its_engines_and_while_its_ledger_is_away(
        self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert (await world.client().get("/healthz/ready")).status_code == 200

        async def away(*_: Any) -> Any:
            raise Unavailable

        monkeypatch.setattr(world.gateway.ledger, "read", away)
        answer = await world.client().get("/healthz/ready")
        assert (answer.status_code, answer.json()["ledger"]) == (503, False)
        assert (await world.client().get("/healthz/live")).status_code == 200


class TestStoreThatWentBack:
    """The store came back older than it was: what the ledger knows is written again"""

    async def test_its_ends_are_written_again_so_that_nobody_runs_them_again(self, world: GatewayWorld) -> None:
        store = world.dapr.stores[names.results_component(ECHO)]
        kept = await world.submit("kept")
        await world.until_status(kept, Status.SUCCEEDED)
        await world.sweep()
        older = dict(store)
        world.runner.answer = fail
        lost = [await world.submit(number) for number in range(3)]
        for job_id in lost:
            await world.until_status(job_id, Status.FAILED)
        before = {job_id: world.record(job_id) for job_id in lost}
        store.clear()
        store.update(older)
        world.dapr.fail("read_many")
        await world.sweep()
        assert world.record(lost[0]) is None, "the store did not answer yet"
        world.runner.answer = succeed
        later = await world.submit("later")
        await world.until_status(later, Status.SUCCEEDED)
        await world.sweep()
        assert {job_id: world.record(job_id) for job_id in lost} == before

    async def test_also_by_a_gateway_that_was_not_there(self, tmp_path: Path) -> None:
        dapr = FakeDapr()
        async with gateway_world(tmp_path, dapr=dapr) as world:
            job_id = await world.submit({"n": [1, 2.5]})
            await world.until_status(job_id, Status.SUCCEEDED)
            before = world.record(job_id)
        dapr.handlers.clear()
        dapr.stores[names.results_component(ECHO)].clear()
        async with gateway_world(tmp_path, dapr=dapr) as world:
            await world.sweep()
            assert world.record(job_id) == before

    async def test_a_store_that_hangs_keeps_no_other_from_being_looked_at(
        self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.until_status(await world.submit(), Status.SUCCEEDED)
        job_id = await world.submit(engine="standard")
        await world.until_status(job_id, Status.SUCCEEDED)
        before = world.record(job_id, STANDARD)
        await world.idle()
        world.dapr.stores[names.results_component(STANDARD)].clear()
        sidecar = world.gateway.sidecar
        read_many = sidecar.read_many

        async def hang(store: str, keys: Any) -> Any:
            await asyncio.sleep(3_600 if store == names.results_component(ECHO) else 0)
            return await read_many(store, keys)

        monkeypatch.setattr(sidecar, "read_many", hang)
        await asyncio.wait_for(world.sweep(), 5)
        assert world.record(job_id, STANDARD) == before

    async def test_its_engine_stays_quarantined(self, world: GatewayWorld) -> None:
        store = world.dapr.stores[names.results_component(ECHO)]
        await world.until_status(await world.submit(), Status.SUCCEEDED)
        answer = await world.client("admin").post(f"/v1/engines/{ECHO}/quarantine", json={"reason": "it lies"})
        assert answer.status_code == 200
        stopped = store[names.CONTROL_KEY].value
        store.clear()
        await world.sweep()
        assert store[names.CONTROL_KEY].value == stopped
