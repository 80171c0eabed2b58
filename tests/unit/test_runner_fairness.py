"""Tenants take turns at a shared engine's places, and those whose jobs it dies of or hangs with are held back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.clocks import Clocks
from tests.support.runner import Gate, World, begin, echo, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.job import Status
from enginehouse.runner.blame import Blame
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import Asker

PLACES = 2


class Steps:
    """An engine's predict that ends one call at each step, the oldest one first."""

    def __init__(self, world: World) -> None:
        self.begun: list[Any] = []
        self._ends: list[asyncio.Event] = []
        world.engine.predict = self.predict

    async def predict(self, request: web.Request) -> web.StreamResponse:
        end = asyncio.Event()
        self.begun.append((await request.json())["data"])
        self._ends.append(end)
        await end.wait()
        return await echo(request)

    async def end_one(self) -> None:
        """End the oldest call, and wait until its place has gone to the next job."""
        begun = len(self.begun)
        self._ends.pop(0).set()
        await until_async(lambda: len(self.begun) > begun)

    def end_all(self) -> None:
        """End every call that is out."""
        while self._ends:
            self._ends.pop(0).set()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path, concurrency=PLACES) as made:
        yield made


async def wait_in_line(world: World, tenant: str, jobs: int, **options: Any) -> list["asyncio.Task[bool]"]:
    """Deliver jobs, and wait until the runner has them all in hand."""
    options = {"data": tenant, **options}
    tasks = {
        job_id: begin(world, job_id, tenant=tenant, **options) for job_id in [names.new_job_id() for _ in range(jobs)]
    }
    await until_async(lambda: all(task.done() or id_ in world.runner.receiver.in_hand for id_, task in tasks.items()))
    return list(tasks.values())


async def finish(steps: Steps, tasks: list["asyncio.Task[bool]"]) -> None:
    while not all(task.done() for task in tasks):
        steps.end_all()
        await asyncio.sleep(0.005)
    assert all(task.result() for task in tasks)


async def test_a_job_waits_for_one_place_however_many_jobs_of_another_tenant_wait(world: World) -> None:
    steps = Steps(world)
    tasks = await wait_in_line(world, "umbra", 60)
    await until_async(lambda: len(steps.begun) == PLACES)
    tasks += await wait_in_line(world, "acme", 1)
    await steps.end_one()
    assert steps.begun == ["umbra", "umbra", "acme"]
    await finish(steps, tasks)


async def test_places_are_shared_as_the_weights_say(tmp_path: Path) -> None:
    async with runner_world(tmp_path, concurrency=4) as world:
        steps = Steps(world)
        tasks = await wait_in_line(world, "bronze", 30)
        tasks += await wait_in_line(world, "gold", 30, weight=3)
        await until_async(lambda: len(steps.begun) == 4)
        for _ in range(28):
            await steps.end_one()
        assert steps.begun[4:].count("gold") in (21, 22, 23)
        # From the moment at which the first jobs have ended, each four in a row are of both.
        assert all(steps.begun[at : at + 4].count("gold") == 3 for at in range(8, 28))
        await finish(steps, tasks)


async def test_a_tenants_own_jobs_begin_in_the_order_in_which_they_came(world: World) -> None:
    steps = Steps(world)
    tasks: list[asyncio.Task[bool]] = []
    for number in range(8):
        tasks += await wait_in_line(world, "acme", 1, data=number)
    await until_async(lambda: len(steps.begun) == PLACES)
    for _ in range(6):
        await steps.end_one()
    assert set(steps.begun[:PLACES]) == {0, 1}, "they found a place at once"
    assert steps.begun[PLACES:] == list(range(PLACES, 8))
    await finish(steps, tasks)


async def test_a_canceled_wait_leaves_the_line_to_the_next_of_its_tenant(world: World) -> None:
    steps = Steps(world)
    tasks = await wait_in_line(world, "umbra", PLACES)
    await until_async(lambda: len(steps.begun) == PLACES)
    canceled = asyncio.create_task(world.runner.pool.wait(Asker("umbra"), 5))
    await asyncio.sleep(0)
    tasks += await wait_in_line(world, "umbra", 1)
    canceled.cancel()
    await asyncio.gather(canceled, return_exceptions=True)
    await steps.end_one()
    assert len(steps.begun) == PLACES + 1
    await finish(steps, tasks)
    assert not world.runner.pool._waiting
    assert not world.runner.pool._held


async def test_calls_that_hang_count_as_places_of_their_tenant(tmp_path: Path) -> None:
    pace = Pace(hang_poll_seconds=0.01)
    async with runner_world(
        tmp_path, concurrency=PLACES, execution_timeout_seconds=0.1, restart_after_seconds=30, pace=pace
    ) as world:
        world.engine.in_hand = 9  # It says that nothing has ended.
        Gate(world)
        hanging = await wait_in_line(world, "umbra", 1, seconds=0.1)
        assert await hanging[0]
        assert world.runner.pool._held == {"umbra": 1}
        steps = Steps(world)
        tasks = await wait_in_line(world, "umbra", 4)
        await until_async(lambda: steps.begun == ["umbra"], "the only place left is taken")
        tasks += await wait_in_line(world, "acme", 2)
        for _ in range(2):
            await steps.end_one()
        assert steps.begun[1:] == ["acme", "acme"]
        await finish(steps, tasks)


async def test_a_stopped_engine_hands_the_waiting_jobs_of_every_tenant_back(world: World) -> None:
    steps = Steps(world)
    tasks = await wait_in_line(world, "umbra", 5)
    tasks += await wait_in_line(world, "acme", 2)
    await until_async(lambda: len(steps.begun) == PLACES)
    ids = world.runner.receiver.in_hand
    world.runner.pool.stop()
    await until_async(lambda: len(world.runner.receiver.in_hand) == PLACES)
    await finish(steps, tasks)
    assert [world.record(job_id).status for job_id in ids].count(Status.QUEUED) == 5


async def dies(request: web.Request) -> web.StreamResponse:
    """End the connection, as an engine does that is killed by its input."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.fixture
async def shared(world: World) -> World:
    """Return a runner that treats its engine as one of many tenants."""
    world.runner.pool.blame = Blame()
    return world


class Crash:
    """An engine that dies of umbra's inputs, with all calls that are out."""

    def __init__(self, world: World) -> None:
        self._dead = asyncio.Event()
        self.entered = 0
        world.engine.predict = self.predict

    async def predict(self, request: web.Request) -> web.StreamResponse:
        self.entered += 1
        if (await request.json())["data"] == "umbra" and self.entered >= 2:
            self._dead.set()
        await self._dead.wait()
        return await dies(request)


async def test_a_job_that_is_at_the_engine_when_it_dies_of_anothers_loses_no_attempt(shared: World) -> None:
    Crash(shared)
    tasks = await wait_in_line(shared, "acme", 1)
    tasks += await wait_in_line(shared, "umbra", 1)
    ids = shared.runner.receiver.in_hand
    assert all(await asyncio.gather(*tasks))
    assert [(shared.record(job_id).status, shared.record(job_id).attempt) for job_id in ids] == [("queued", 0)] * 2
    assert all(shared.record(job_id).error is None for job_id in ids)


async def test_the_next_time_counts_and_so_does_a_death_without_company(shared: World) -> None:
    shared.engine.predict = dies
    alone = await shared.run(tenant="umbra")
    assert (alone.status, alone.attempt) == (Status.QUEUED, 1)
    assert alone.error is not None
    blame = Blame()
    assert blame.excuses("job")
    assert not blame.excuses("job")


async def test_the_waiting_jobs_of_a_tenant_whose_job_killed_the_engine_go_back_and_others_go_on(
    shared: World,
) -> None:
    async def predict(request: web.Request) -> web.StreamResponse:
        return await (dies if (await request.json())["data"] == "umbra" else echo)(request)

    shared.engine.predict = predict
    assert (await shared.run("umbra", tenant="umbra")).error is not None
    calls = len(shared.engine.calls)
    held_back = await shared.run("umbra", tenant="umbra")
    assert (held_back.status, held_back.attempt, held_back.error) == (Status.QUEUED, 0, None)
    assert len(shared.engine.calls) == calls
    assert (await shared.run("acme", tenant="acme")).status is Status.SUCCEEDED


async def test_each_trouble_holds_a_tenant_back_longer_and_successes_make_up_for_them() -> None:
    blame = Blame()
    now = asyncio.get_running_loop().time()
    held = []
    for _ in range(8):
        blame.note_trouble("umbra")
        blame.note_trouble("umbra")  # Another job that was at the engine when it died.
        held.append(round(blame.seconds_left("umbra")))
        blame._troubles["umbra"].held_until = now
    assert held == [1, 2, 4, 8, 16, 32, 60, 60]
    assert blame.seconds_left("umbra") == 0
    assert 30 <= blame.seconds_left("umbra", 1) <= 60, "one at a time"
    assert blame.seconds_left("acme", 5) == 0
    for _ in range(8):
        blame.note_success("umbra")
    assert blame.seconds_left("umbra", 1) == 0


async def test_after_the_hold_one_job_of_the_tenant_waits_or_runs_and_the_others_leave_the_window(
    shared: World,
) -> None:
    steps, pool = Steps(shared), shared.runner.pool
    assert pool.blame is not None
    pool.note_trouble("umbra")
    pool.blame._troubles["umbra"].held_until = 0.0
    tasks = await wait_in_line(shared, "acme", PLACES)
    await until_async(lambda: len(steps.begun) == PLACES)
    tasks += await wait_in_line(shared, "umbra", 1)
    while_it_waits = await asyncio.wait_for(shared.run(tenant="umbra"), 20)
    await steps.end_one()
    assert steps.begun[PLACES:] == ["umbra"]
    while_it_runs = await asyncio.wait_for(shared.run(tenant="umbra"), 20)
    for record in (while_it_waits, while_it_runs):
        assert (record.status, record.attempt, record.error) == (Status.QUEUED, 0, None)
        assert record.retry_at is not None
    tasks += await wait_in_line(shared, "acme", 1)
    await finish(steps, tasks)


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[World]:
    """Run a runner whose engine has a tenth of a second, and treat the engine as one of many tenants."""
    async with runner_world(tmp_path, concurrency=PLACES, execution_timeout_seconds=0.1) as made:
        made.engine.offers_cancel = True
        made.runner.pool.blame = Blame()
        yield made


async def test_a_tenant_whose_job_ran_out_of_the_engines_own_time_is_held_back(hasty: World) -> None:
    steps, blame = Steps(hasty), hasty.runner.pool.blame
    assert blame is not None
    shorter = await hasty.run(tenant="umbra", seconds=0.05)
    assert shorter.status is Status.TIMED_OUT
    assert hasty.runner.pool.held_back_seconds("umbra") == 0, "its own short time says nothing"
    assert (await hasty.run(tenant="umbra", seconds=0.1)).status is Status.TIMED_OUT
    begun = len(steps.begun)
    blame._troubles["umbra"].held_until += 60  # Longer than this test takes.
    assert (await hasty.run(tenant="umbra", seconds=0.1)).status is Status.QUEUED
    assert len(steps.begun) == begun
    hasty.engine.predict = echo
    assert (await hasty.run(tenant="acme")).status is Status.SUCCEEDED


async def test_a_job_that_runs_out_of_time_and_then_hangs_is_one_trouble(tmp_path: Path) -> None:
    pace = Pace(hang_poll_seconds=0.01)
    async with runner_world(
        tmp_path, concurrency=PLACES, execution_timeout_seconds=0.1, restart_after_seconds=0.1, pace=pace
    ) as world:
        world.engine.in_hand = 9  # It says that nothing has ended.
        Steps(world)
        blame = world.runner.pool.blame = Blame()
        assert (await world.run(tenant="umbra", seconds=0.1)).status is Status.TIMED_OUT
        blame._troubles["umbra"].held_until = 0.0  # A hold is shorter than the time until a restart.
        await until_async(lambda: world.runner.pool.replicas[0].restarting)
        assert blame._troubles["umbra"].times == 1


@pytest.mark.parametrize(("warning", "statuses"), [("it blocks", ["queued"] * 2), (None, ["timed_out"] * 2)])
async def test_a_job_that_waited_behind_anothers_until_its_time_was_over_is_tried_again(
    hasty: World, warning: str | None, statuses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (replica,) = hasty.runner.pool.replicas
    hasty.engine.warning = warning
    replica.changed.set()
    await until_async(lambda: replica.client.warning == warning)
    steps, clocks = Steps(hasty), Clocks(monkeypatch)
    tasks = await wait_in_line(hasty, "umbra", 1)
    tasks += await wait_in_line(hasty, "acme", 1)
    await until_async(lambda: len(steps.begun) == 2)
    ids = hasty.runner.receiver.in_hand
    clocks.run_out()
    assert all(await asyncio.gather(*tasks))
    assert [hasty.record(job_id).status for job_id in ids] == statuses


async def test_when_the_engine_is_back_others_come_before_the_tenant_that_killed_it(shared: World) -> None:
    pool, (replica,) = shared.runner.pool, shared.runner.pool.replicas
    assert pool.blame is not None
    pool.note_trouble("umbra")
    pool.blame._troubles["umbra"].held_until = 0.0  # Its restart took longer.
    pool.set_health(replica, False)
    waits = [asyncio.create_task(pool.wait(Asker(tenant), 5)) for tenant in ("umbra", "acme")]
    await asyncio.sleep(0)
    pool.set_health(replica, True)
    assert await asyncio.gather(*waits) == [None, replica]
    assert pool.held_back_seconds("umbra") > 0
    pool.release(replica, Asker("acme"))


async def test_tenants_under_suspicion_come_back_one_after_the_other_the_least_troubled_first() -> None:
    blame = Blame()
    for tenant, times in (("umbra", 2), ("acme", 1), ("zeta", 1)):
        for _ in range(times):
            blame.note_trouble(tenant)
            blame._troubles[tenant].held_until = 0.0
    blame.hold_anew()
    assert [round(blame.seconds_left(tenant)) for tenant in ("acme", "zeta", "umbra")] == [1, 2, 4]


@pytest.mark.parametrize(("tenant", "is_shared"), [("shared", True), ("acme", False)])
async def test_only_a_shared_engine_holds_tenants_back(tmp_path: Path, tenant: str, is_shared: bool) -> None:
    async with runner_world(tmp_path, tenant=tenant) as world:
        assert (world.runner.pool.blame is not None) == is_shared
