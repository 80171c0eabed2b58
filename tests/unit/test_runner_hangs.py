"""Calls that are given up keep their places until they end, and a hung replica is restarted, but under no job of others."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.clocks import Clocks
from tests.support.runner import Gate, TinyEngine, World, begin, echo, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.job import Status
from enginehouse.runner.clients.base import Health
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import Place, Replica
from enginehouse.runner.tenants import Asker

ACME = Asker("acme")


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[World]:
    """A runner of an engine whose own execution timeout is short."""
    async with runner_world(tmp_path, execution_timeout_seconds=0.05, pace=Pace(hang_poll_seconds=0.01)) as made:
        yield made


def restart_file(world: World, folder: Path) -> Path:
    return folder / f"127.0.0.1_{world.engine.port}"


def places_at_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of places taken at the replica whenever its restart is asked for."""
    restarts = world.runner._hangs._restarts
    request, taken = restarts.request, list[int]()

    def noting(replica: Replica) -> bool:
        taken.append(replica.places_taken)
        return request(replica)

    monkeypatch.setattr(restarts, "request", noting)
    return taken


async def test_a_hung_replica_is_restarted_and_its_place_kept_until_then(
    hasty: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gate(hasty)
    taken = places_at_restart(hasty, monkeypatch)
    assert (await hasty.run(seconds=0.05)).status is Status.TIMED_OUT
    replica = hasty.runner.pool.replicas[0]
    await until_async(restart_file(hasty, tmp_path).exists)
    assert taken == [1]
    await until_async(lambda: replica.places_taken == 0)
    assert not hasty.runner.ready()
    restart_file(hasty, tmp_path).unlink()
    await until_async(hasty.runner.ready)
    assert not replica.restarting


async def test_an_engine_that_ends_a_call_when_told_is_not_restarted(hasty: World, tmp_path: Path) -> None:
    Gate(hasty)
    hasty.engine.offers_cancel = True
    await hasty.run(seconds=0.05)
    await until_async(lambda: hasty.runner.pool.replicas[0].places_taken == 0)
    assert not restart_file(hasty, tmp_path).exists()
    assert hasty.runner.ready()


async def test_an_engine_that_says_its_thread_is_free_is_not_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch)
    async with runner_world(tmp_path, execution_timeout_seconds=0.05, pace=Pace(call_age_seconds=0)) as hasty:
        gate = Gate(hasty)
        hasty.engine.in_hand = 0
        delivery = begin(hasty, names.new_job_id(), seconds=0.05)
        await until_async(lambda: gate.entered == 1)
        clocks.run_out()
        assert await delivery
        await until_async(lambda: hasty.runner.pool.replicas[0].places_taken == 0)
        assert not restart_file(hasty, tmp_path).exists()
        assert hasty.runner.ready()


async def test_an_engine_that_says_its_thread_hangs_is_restarted(hasty: World, tmp_path: Path) -> None:
    Gate(hasty)
    hasty.engine.in_hand = 1
    await hasty.run(seconds=0.05)
    await until_async(restart_file(hasty, tmp_path).exists)


async def test_a_clock_shorter_than_the_engines_own_restarts_nothing_before_that_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with runner_world(tmp_path, execution_timeout_seconds=0.6) as world:
        Gate(world)
        world.engine.in_hand = 1
        taken, began = places_at_restart(world, monkeypatch), time.monotonic()
        assert (await world.run(seconds=0.01)).status is Status.TIMED_OUT
        await until_async(restart_file(world, tmp_path).exists)
        assert time.monotonic() - began >= 0.6
        assert taken == [1]


async def test_the_place_of_a_canceled_job_is_kept_until_its_thread_is_free(tmp_path: Path) -> None:
    pace = Pace(call_age_seconds=0, hang_poll_seconds=0.01)
    async with runner_world(tmp_path, concurrency=1, pace=pace) as world:
        gate = Gate(world)
        world.engine.in_hand = 1
        job_id = names.new_job_id()
        delivery = begin(world, job_id)
        record = await world.running(job_id)
        await world.write(job_id, record.model_copy(update={"status": Status.CANCELED}))
        assert await delivery
        assert world.engine.canceled in ([], [job_id])
        following = begin(world, names.new_job_id())
        await until_async(lambda: world.engine.canceled == [job_id])
        assert gate.entered == 1
        world.engine.in_hand = 0
        await until_async(lambda: gate.entered == 2)
        gate.open.set()
        assert await following
        assert not restart_file(world, tmp_path).exists()


async def hung_beside(world: World, others: int) -> list["asyncio.Task[bool]"]:
    """Begin that many jobs, then one that hangs past its time. Return the deliveries of the others, which go on."""
    ids = [names.new_job_id() for _ in range(others)]
    deliveries = [begin(world, job_id) for job_id in ids]
    for job_id in ids:
        await world.running(job_id)
    assert await begin(world, names.new_job_id(), seconds=0.05)
    replica = world.runner.pool.replicas[0]
    await until_async(lambda: replica.hung)
    return deliveries


async def test_a_replica_is_not_restarted_under_a_job_of_others(hasty: World, tmp_path: Path) -> None:
    gate = Gate(hasty)
    (innocent,) = await hung_beside(hasty, 1)
    replica = hasty.runner.pool.replicas[0]
    await until_async(lambda: replica.draining)
    waiting = begin(hasty, names.new_job_id(), data="waiting")
    await until_async(lambda: hasty.runner.pool._waiting)
    asked = hasty.engine.health_checks
    await until_async(lambda: hasty.engine.health_checks >= asked + 5, "it is asked whether the hung call has ended")
    assert not restart_file(hasty, tmp_path).exists()
    assert "waiting" not in [call["data"] for call in hasty.engine.calls], "no job is sent to a replica that drains"
    gate.open.set()
    assert await innocent
    await until_async(restart_file(hasty, tmp_path).exists)
    restart_file(hasty, tmp_path).unlink()
    assert await waiting
    assert not replica.draining


async def test_a_replica_with_a_hung_call_and_free_places_goes_on(tmp_path: Path) -> None:
    pace = Pace(hang_poll_seconds=0.01)
    async with runner_world(tmp_path, concurrency=3, execution_timeout_seconds=0.05, pace=pace) as world:
        gate = Gate(world)
        (innocent,) = await hung_beside(world, 1)
        world.engine.predict = echo
        assert (await world.run()).status is Status.SUCCEEDED
        assert not restart_file(world, tmp_path).exists()
        gate.open.set()
        assert await innocent
        await until_async(restart_file(world, tmp_path).exists)


async def test_a_hung_call_that_ends_by_itself_after_all_restarts_nothing(tmp_path: Path) -> None:
    pace = Pace(call_age_seconds=0, hang_poll_seconds=0.01)
    async with runner_world(tmp_path, execution_timeout_seconds=0.05, pace=pace) as world:
        world.engine.in_hand = 2
        gate = Gate(world)
        (innocent,) = await hung_beside(world, 1)
        replica = world.runner.pool.replicas[0]
        await until_async(lambda: replica.draining)
        world.engine.in_hand = 1
        await until_async(lambda: not replica.hung)
        assert not replica.draining
        assert (await world.run(seconds=0.01)).status is Status.TIMED_OUT, "it gets jobs again"
        gate.open.set()
        assert await innocent
        assert not restart_file(world, tmp_path).exists()


async def test_replicas_drain_one_after_the_other(tmp_path: Path) -> None:
    second = TinyEngine()
    await second.start()
    first = TinyEngine()
    await first.start()
    pace = Pace(hang_poll_seconds=0.01)
    urls = [first.url, second.url]
    async with runner_world(
        tmp_path, engine=first, engine_urls=urls, concurrency=1, execution_timeout_seconds=0.05, pace=pace
    ) as world:
        replicas = world.runner.pool.replicas
        await until_async(lambda: all(replica.healthy for replica in replicas))
        replicas[0].draining = True
        taken = world.runner.pool.take(ACME)
        assert taken is replicas[1]
        assert world.runner.pool.take(ACME) is None
        taken.hung.add(Place(world.runner.pool, 1, ACME))
        assert not world.runner._hangs._is_blocked(taken)
        replicas[0].draining = False
        assert world.runner._hangs._is_blocked(taken)
        taken.hung.clear()
        world.runner.pool.release(taken, ACME)
    for engine in (first, second):
        await engine.stop()


async def test_an_engine_whose_given_up_work_never_ends_is_restarted_when_it_is_idle(tmp_path: Path) -> None:
    async with runner_world(tmp_path, execution_timeout_seconds=0.05) as world:
        (replica,) = world.runner.pool.replicas
        hangs = world.runner._hangs
        await world.runner._health.stop()  # What the engine tells is told by this test.
        taken = world.runner.pool.take(ACME)
        told = Health(ok=True, in_hand=0, abandoned=1)
        hangs.look_at(replica, told)
        await asyncio.sleep(0.15)
        hangs.look_at(replica, told)
        assert not restart_file(world, tmp_path).exists(), "a job is in hand"
        assert taken is replica
        world.runner.pool.release(replica, ACME)
        hangs.look_at(replica, Health(ok=True, in_hand=0))
        hangs.look_at(replica, told)
        assert not restart_file(world, tmp_path).exists(), "the work before has ended"
        await asyncio.sleep(0.15)
        hangs.look_at(replica, told)
        assert restart_file(world, tmp_path).exists()


async def test_without_anybody_to_restart_it_the_place_comes_back(tmp_path: Path) -> None:
    async with runner_world(tmp_path, supervisor_dir=None, execution_timeout_seconds=0.05) as world:
        Gate(world)
        await world.run(seconds=0.05)
        await until_async(lambda: world.runner.pool.replicas[0].places_taken == 0)
        assert world.runner.ready()


async def test_without_anybody_to_restart_it_a_silent_engine_gets_no_job_until_it_answers(tmp_path: Path) -> None:
    pace = Pace(hang_poll_seconds=0.01)
    async with runner_world(tmp_path, supervisor_dir=None, execution_timeout_seconds=0.05, pace=pace) as world:
        gate, replica = Gate(world), world.runner.pool.replicas[0]
        answers = asyncio.Event()
        await world.runner._health.stop()

        async def health() -> Health:
            return Health(ok=answers.is_set(), answered=answers.is_set())

        replica.client.health = health  # type: ignore[method-assign]
        await world.run(seconds=0.05)
        await until_async(lambda: not replica.healthy)
        assert replica.places_taken == 1
        assert gate.entered == 1
        answers.set()
        await until_async(lambda: replica.places_taken == 0)


async def test_without_anybody_to_restart_it_a_replica_whose_places_all_hang_is_not_well(tmp_path: Path) -> None:
    pace = Pace(hang_poll_seconds=0.01, call_age_seconds=0, problem_poll_seconds=0.01, down_told_after_seconds=0.05)
    async with runner_world(
        tmp_path, supervisor_dir=None, concurrency=1, execution_timeout_seconds=0.05, pace=pace
    ) as world:
        Gate(world)
        world.engine.in_hand = 1
        replica = world.runner.pool.replicas[0]
        await world.run(seconds=0.05)
        await until_async(lambda: replica.stuck)
        replica.changed.set()  # Its health is looked at now.
        await until_async(lambda: not world.runner.ready())
        await until_async(lambda: world.runner._problems.problem)
        assert "must be started again" in str(world.runner._problems.problem)
        assert replica.places_taken == 1
        world.engine.in_hand = 0
        await until_async(world.runner.ready)
        assert replica.places_taken == 0
        assert world.runner._problems.found is None


async def test_a_job_that_timed_out_behind_others_is_told_so_if_the_engine_seems_to_work_on_one_at_a_time(
    tmp_path: Path,
) -> None:
    async with runner_world(tmp_path) as world:
        (replica,) = world.runner.pool.replicas
        gate = Gate(world)
        other = begin(world, names.new_job_id())
        await until_async(lambda: gate.entered)
        plain = await world.run(seconds=0.2)
        assert plain.error is not None
        assert plain.error.message.endswith("(0.2 s)"), "nothing says that it waited"
        await world.runner._health.stop()  # Its next check would find that the engine answers.
        replica.silent = True
        behind = await world.run(seconds=0.2)
        assert behind.error is not None
        assert "; the job waited behind other jobs: the engine answers no health check" in behind.error.message
        gate.open.set()
        assert await other
