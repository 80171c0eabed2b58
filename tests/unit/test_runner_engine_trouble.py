"""Engines that are busy or away, and runners that stop."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from tests.support.runner import Gate, TinyEngine, World, begin, echo, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.events import WORKER_LEFT
from enginehouse.contracts.job import Status
from enginehouse.contracts.moments import now
from enginehouse.runner.clients.base import Health, Prediction, Reply
from enginehouse.runner.health import HealthWatch, Restarts
from enginehouse.runner.outcome import Succeeded
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import ReplicaPool
from enginehouse.runner.schema import Description
from enginehouse.runner.tenants import Asker

ACME = Asker("acme")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


# Busy


async def test_a_busy_engine_is_asked_again_and_no_attempt_is_burned(world: World) -> None:
    async def predict(request: web.Request) -> web.StreamResponse:
        if len(world.engine.calls) < 3:
            return web.Response(status=429, headers={"Retry-After": "0.05"})
        return await echo(request)

    world.engine.predict = predict
    record = await world.run()
    assert (record.status, record.attempt) == (Status.SUCCEEDED, 1)
    assert len(world.engine.calls) == 3


async def test_a_job_of_an_engine_that_stays_busy_goes_back_to_the_queue(world: World) -> None:
    async def predict(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503, headers={"Retry-After": "20"})

    world.engine.predict = predict
    record = await world.run()
    assert (record.status, record.attempt, record.error) == (Status.QUEUED, 0, None)
    assert record.retry_at is not None
    assert 15 < (record.retry_at - now()).total_seconds() <= 20


async def test_a_job_that_went_back_runs_as_the_same_attempt(world: World) -> None:
    job_id = names.new_job_id()
    world.engine.predict = lambda _: _status(503)
    await world.runner.receiver.deliver(world.event(job_id))
    assert world.record(job_id).attempt == 0
    world.engine.predict = echo
    await world.runner.receiver.deliver(world.event(job_id))
    assert (world.record(job_id).status, world.record(job_id).attempt) == (Status.SUCCEEDED, 1)


async def _status(status: int) -> web.StreamResponse:
    return web.Response(status=status, headers={"Retry-After": "9"})


# Away


async def test_an_engine_that_is_away_burns_no_attempts(world: World) -> None:
    await world.engine.stop()
    record = await world.run()
    assert (record.status, record.attempt) == (Status.QUEUED, 0)
    assert not world.runner.ready()


async def test_a_job_waits_for_an_engine_that_comes_back(tmp_path: Path) -> None:
    async with runner_world(tmp_path, hand_back_after_seconds=10) as world:
        await world.engine.stop()
        delivery = begin(world, names.new_job_id())
        await until_async(lambda: not world.runner.ready())
        await world.engine.start()
        assert await delivery
        await until_async(world.runner.ready)
        assert len(world.engine.calls) == 1


async def test_not_ready_until_the_model_is_loaded(world: World) -> None:
    world.engine.healthy = False
    world.runner.pool.set_health(world.runner.pool.replicas[0], False)
    assert not world.runner.ready()
    world.engine.healthy = True
    await until_async(world.runner.ready)


async def test_deliveries_go_on_while_an_engine_restarts_unless_that_takes_long(tmp_path: Path) -> None:
    async with runner_world(tmp_path, pace=Pace(restart_seconds=0.2)) as world:
        world.engine.healthy = False
        world.runner.pool.set_health(world.runner.pool.replicas[0], False)
        assert not world.runner.ready()
        assert world.runner.takes_deliveries()
        await until_async(lambda: not world.runner.takes_deliveries())
        world.engine.healthy = True
        await until_async(world.runner.takes_deliveries)
    assert ReplicaPool([ScriptedEngine()], 1).seconds_down > 1e9, "one that was never well does not restart"


# Health


class ScriptedEngine:
    """An engine whose health the test sets."""

    address = "127.0.0.1:1"
    warning: str | None = None

    def __init__(self) -> None:
        self.says = Health(ok=True)
        self.asked = 0

    async def predict(self, prediction: Prediction) -> Reply:
        return Succeeded(prediction.data)

    async def cancel(self, job_id: str) -> bool:
        return False

    async def health(self) -> Health:
        self.asked += 1
        return self.says

    async def describe(self) -> Description:
        return Description()

    async def close(self) -> None:
        pass


async def test_silence_while_it_works_is_not_illness() -> None:
    engine = ScriptedEngine()
    pool = ReplicaPool([engine], 1)
    watch = HealthWatch(pool, Restarts(None), lambda _: None)
    watch.start()
    replica = pool.replicas[0]
    await until_async(lambda: replica.healthy)
    assert pool.take(ACME) is replica
    engine.says = Health(ok=False, answered=False)
    asked = engine.asked
    replica.changed.set()
    await until_async(lambda: engine.asked > asked)
    assert replica.healthy
    pool.release(replica, ACME)
    replica.changed.set()
    await until_async(lambda: not replica.healthy)
    await watch.stop()


# Replicas


async def test_an_engine_gets_no_more_jobs_at_once_than_it_says_it_works_on(world: World) -> None:
    (replica,) = world.runner.pool.replicas
    gate = Gate(world)

    async def says(concurrency: int | None, places: int) -> None:
        world.engine.concurrency = concurrency
        replica.changed.set()
        await until_async(lambda: replica.concurrency == places)

    await says(1, 1)
    await says(9, 2)
    await says(None, 2)
    await says(1, 1)
    first, second = (begin(world, names.new_job_id()) for _ in range(2))
    await until_async(lambda: gate.entered == 1)
    assert replica.places_taken == 1
    gate.open.set()
    assert await first
    assert await second


async def test_the_replica_with_the_fewest_jobs_gets_the_next() -> None:
    pool = ReplicaPool([ScriptedEngine(), ScriptedEngine()], 2)
    one, two = pool.replicas
    assert pool.take(ACME) is None
    for replica in pool.replicas:
        pool.set_health(replica, True)
    taken = [pool.take(ACME) for _ in range(4)]
    assert taken == [one, two, one, two]
    assert pool.take(ACME) is None
    waiting = [asyncio.create_task(pool.wait(ACME, 5)) for _ in range(2)]
    await asyncio.sleep(0)
    pool.release(two, ACME)
    assert await waiting[0] is two
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    pool.release(one, ACME)
    assert pool.take(ACME) is one


async def test_a_sick_replica_gets_nothing(tmp_path: Path) -> None:
    second = TinyEngine()
    await second.start()
    async with runner_world(tmp_path) as first:
        urls = [first.engine.url, second.url]
        async with runner_world(tmp_path, engine_urls=urls, engine=second, dapr=first.dapr) as world:
            await until_async(lambda: all(replica.healthy for replica in world.runner.pool.replicas))
            await first.engine.stop()
            for _ in range(4):
                assert (await world.run()).status is Status.SUCCEEDED
            assert len(second.calls) == 4
    await second.stop()


async def test_a_cancelled_wait_gives_its_place_back() -> None:
    pool = ReplicaPool([ScriptedEngine()], 1)
    pool.set_health(pool.replicas[0], True)
    assert pool.take(ACME)
    waiting = asyncio.create_task(pool.wait(ACME, 5))
    await asyncio.sleep(0)
    pool.release(pool.replicas[0], ACME)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert pool.take(ACME) is pool.replicas[0]


# Stopping


async def test_what_runs_may_end_and_what_waits_goes_back(world: World) -> None:
    gate = Gate(world)
    running = [names.new_job_id(), names.new_job_id()]
    waiting = names.new_job_id()
    deliveries = [begin(world, job_id) for job_id in [*running, waiting]]
    await until_async(lambda: gate.entered == 2)
    draining = asyncio.create_task(world.runner.drain())
    await until_async(lambda: world.find(waiting))
    assert (world.record(waiting).status, world.record(waiting).attempt) == (Status.QUEUED, 0)
    assert world.runner.takes_deliveries(), "its sidecar goes on until the results are written"
    gate.open.set()
    await draining
    assert not world.runner.takes_deliveries()
    assert await asyncio.gather(*deliveries) == [True] * 3
    assert [world.record(job_id).status for job_id in running] == [Status.SUCCEEDED] * 2


async def test_what_does_not_end_in_its_grace_goes_back(tmp_path: Path) -> None:
    async with runner_world(tmp_path, stop_grace_seconds=0.1) as world:
        gate = Gate(world)
        job_id = names.new_job_id()
        delivery = begin(world, job_id)
        await world.running(job_id)
        await world.runner.drain()
        assert await delivery
        assert (world.record(job_id).status, world.record(job_id).attempt) == (Status.QUEUED, 0)
        await until_async(lambda: gate.closed == 1)


async def test_what_comes_while_it_stops_goes_back_at_once(world: World) -> None:
    await world.runner.drain()
    record = await world.run()
    assert (record.status, record.attempt) == (Status.QUEUED, 0)
    assert world.engine.calls == []


async def test_while_it_stops_what_is_claimed_is_acknowledged_before_it_ends(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    await until_async(lambda: gate.entered == 1)
    draining = asyncio.create_task(world.runner.drain())
    assert await asyncio.wait_for(delivery, 10), "its sidecar can leave the topic"
    record = world.record(job_id)
    assert (record.status, record.worker) == (Status.RUNNING, "worker-1"), "if this worker vanishes, the job is found"
    assert world.runner.receiver.in_hand == [job_id]
    assert await begin(world, job_id), "a second delivery need not wait either"
    gate.open.set()
    await draining
    assert world.record(job_id).status is Status.SUCCEEDED
    assert gate.entered == 1


async def test_a_delivery_whose_job_cannot_be_claimed_is_not_acknowledged_while_it_stops(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    world.dapr.fail("create", on=job_id, times=10_000)
    delivery = begin(world, job_id)
    await until_async(lambda: gate.entered == 1)
    draining = asyncio.create_task(world.runner.drain())
    await asyncio.sleep(0.1)
    assert not delivery.done()
    world.dapr.failures.clear()
    gate.open.set()
    await draining
    assert await delivery
    assert world.record(job_id).status is Status.SUCCEEDED


async def test_a_worker_that_stops_says_so_once_its_sidecar_has_left_the_topic(world: World) -> None:
    await world.runner.drain()
    told = [json.loads(event) for event in world.dapr.published[names.COMPLETIONS_TOPIC]]
    assert [event["subject"] for event in told if event["type"] == WORKER_LEFT] == ["a"]
