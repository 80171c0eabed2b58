"""What a shared engine dies of, or hangs with, is blamed on tenants: suspects run apart, culprits are held back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from tests.support.clocks import Clocks
from tests.support.runner import World, begin, echo, runner_world
from tests.support.steps import Leaps, Steps, blame_of, dies, finish, records_of, wait_in_line
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.job import Status
from enginehouse.runner.blame import Blame
from enginehouse.runner.pace import Pace
from enginehouse.runner.tenants import Asker

PLACES = 2
UMBRA, ACME, ZETA = Asker("umbra"), Asker("acme"), Asker("zeta")


class Crash:
    """An engine that dies of umbra's inputs, with all calls that are out."""

    def __init__(self, world: World) -> None:
        self._dead = asyncio.Event()
        self._at_it: list[str] = []
        world.engine.predict = self.predict

    async def predict(self, request: web.Request) -> web.StreamResponse:
        self._at_it.append((await request.json())["data"])
        if len(self._at_it) >= PLACES and "umbra" in self._at_it:
            self._dead.set()
        await self._dead.wait()
        return await dies(request)


async def test_a_job_that_is_at_the_engine_when_it_dies_of_anothers_loses_no_attempt(shared: World) -> None:
    Crash(shared)
    ids = [names.new_job_id(), names.new_job_id()]
    tasks = [
        begin(shared, job_id, tenant=tenant, data=tenant) for job_id, tenant in zip(ids, ("acme", "umbra"), strict=True)
    ]
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


async def test_each_death_holds_a_tenant_back_longer_and_no_success_shortens_that(leaps: Leaps) -> None:
    blame = Blame()
    held = []
    for _ in range(8):
        blame.note_death("umbra", "engine:1")
        blame.note_death("umbra", "engine:1")  # Another job that was at the engine when it died.
        for _ in range(9):
            blame.note_success("umbra")
        held.append(round(blame.seconds_left("umbra")))
        leaps.seconds += held[-1] + 0.1
    assert held == [1, 2, 4, 8, 16, 32, 60, 60]
    assert blame.seconds_left("umbra") == 0
    assert 30 <= blame.seconds_left("umbra", 1) <= 60, "one at a time"
    assert blame.seconds_left("acme", 5) == 0
    leaps.seconds += 60
    assert blame.seconds_left("umbra", 1) == 0
    assert not blame.is_suspect("umbra")


async def test_a_success_makes_up_for_a_job_that_ran_out_of_time(leaps: Leaps) -> None:
    blame = Blame()
    for seconds in (1, 2):
        blame.note_timeout("umbra")
        blame.note_timeout("umbra")  # They began together.
        assert round(blame.seconds_left("umbra")) == seconds
        leaps.seconds += seconds + 0.1
    for _ in range(2):
        assert blame.seconds_left("umbra", 1) > 0
        assert not blame.is_suspect("umbra"), "it does no harm beyond its place"
        blame.note_success("umbra")
    assert blame.seconds_left("umbra", 1) == 0


async def test_what_is_known_against_tenants_is_forgotten(leaps: Leaps) -> None:
    blame = Blame()
    for number in range(50):
        blame.note_suspicion(f"beside-{number}")
        blame.note_death(f"culprit-{number}", "engine:1")
    leaps.seconds += 599
    blame.note_death("culprit-0", "engine:1")
    assert round(blame.seconds_left("culprit-0")) == 2
    assert len(blame._troubles) == 50
    leaps.seconds += 2
    blame.note_death("culprit-1", "engine:1")
    assert round(blame.seconds_left("culprit-1")) == 1
    assert set(blame._troubles) == {"culprit-0", "culprit-1"}


async def test_after_the_hold_one_job_of_the_tenant_waits_or_runs_and_the_others_leave_the_window(
    shared: World, leaps: Leaps
) -> None:
    steps = Steps(shared)
    blame_of(shared).note_death("umbra", "engine:1")
    leaps.seconds += 1.1
    tasks = await wait_in_line(shared, "acme", PLACES)
    await until_async(lambda: len(steps.begun) == PLACES)
    tasks += await wait_in_line(shared, "umbra", 1)
    while_it_waits = await asyncio.wait_for(shared.run(tenant="umbra"), 5)
    steps.end_all()
    await until_async(lambda: len(steps.begun) > PLACES)
    assert steps.begun[PLACES:] == ["umbra"]
    while_it_runs = await asyncio.wait_for(shared.run(tenant="umbra"), 5)
    for record in (while_it_waits, while_it_runs):
        assert (record.status, record.attempt, record.error) == (Status.QUEUED, 0, None)
        assert record.retry_at is not None
    tasks += await wait_in_line(shared, "acme", 1)
    await finish(steps, tasks)


@pytest.fixture
async def hasty(tmp_path: Path, leaps: Leaps) -> AsyncIterator[World]:
    """Run a runner whose engine has a tenth of a second, and treat the engine as one of many tenants."""
    async with runner_world(tmp_path, concurrency=PLACES, execution_timeout_seconds=0.1) as made:
        made.engine.offers_cancel = True
        made.runner.pool.tenants.blame = Blame()
        yield made


async def test_a_tenant_whose_job_ran_out_of_the_engines_own_time_is_held_back(hasty: World) -> None:
    steps = Steps(hasty)
    shorter = await hasty.run(tenant="umbra", seconds=0.05)
    assert shorter.status is Status.TIMED_OUT
    assert hasty.runner.pool.held_back_seconds("umbra") == 0, "its own short time says nothing"
    assert (await hasty.run(tenant="umbra", seconds=0.1)).status is Status.TIMED_OUT
    begun = len(steps.begun)
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
        blame = world.runner.pool.tenants.blame = Blame()
        assert (await world.run(tenant="umbra", seconds=0.1)).status is Status.TIMED_OUT
        await until_async(lambda: world.runner.pool.replicas[0].restarting)
        assert blame._troubles["umbra"].hold_seconds == 1
        assert blame.is_suspect("umbra"), "it hung with none of another tenant"


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
    clocks.run_out()
    assert all(await asyncio.gather(*tasks))
    assert [record.status for record in records_of(hasty, tasks)] == statuses


async def test_when_the_engine_is_back_others_come_before_the_tenant_that_killed_it(
    shared: World, leaps: Leaps
) -> None:
    pool, (replica,) = shared.runner.pool, shared.runner.pool.replicas
    blame_of(shared).note_death("umbra", replica.client.address)
    leaps.seconds += 1.1  # Its restart took longer.
    pool.set_health(replica, False)
    waits = [asyncio.create_task(pool.wait(asker, 5)) for asker in (UMBRA, ACME)]
    await asyncio.sleep(0)
    pool.set_health(replica, True)
    assert await asyncio.gather(*waits) == [None, replica]
    assert pool.held_back_seconds("umbra") > 0
    leaps.seconds += 1.1
    assert blame_of(shared).hold_anew(replica.client.address) == [], "once for each death"
    pool.release(replica, ACME)


@pytest.mark.parametrize(("tenant", "is_shared"), [("shared", True), ("acme", False)])
async def test_only_a_shared_engine_holds_tenants_back(tmp_path: Path, tenant: str, is_shared: bool) -> None:
    async with runner_world(tmp_path, tenant=tenant) as world:
        assert (world.runner.pool.tenants.blame is not None) == is_shared


# However a tenant mixes successes and kills


class Mortal:
    """An engine that dies of `kill`, with all calls that are out. It ends `slow` when that is at it, or at a signal."""

    def __init__(self, world: World) -> None:
        self.kills = 0
        self.dead, self.slow_may_end = asyncio.Event(), asyncio.Event()
        world.engine.predict = self.predict

    async def predict(self, request: web.Request) -> web.StreamResponse:
        data, dead = (await request.json())["data"], self.dead
        if data == "kill":
            self.kills += 1
            self.dead.set()
            self.dead = asyncio.Event()
        elif data == "slow":
            ends = [asyncio.create_task(event.wait()) for event in (dead, self.slow_may_end)]
            _, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in pending:
                end.cancel()
        return await dies(request) if dead.is_set() else await echo(request)


async def test_a_tenant_that_alternates_successes_and_kills_is_held_back_ever_longer(
    shared: World, leaps: Leaps
) -> None:
    engine = Mortal(shared)
    kills_at = []
    while leaps.seconds < 400:
        assert (await shared.run("fine", tenant="umbra")).status in (Status.SUCCEEDED, Status.QUEUED)
        before = engine.kills
        await shared.run("kill", tenant="umbra", max_attempts=1)
        if engine.kills > before:
            kills_at.append(leaps.seconds)
        leaps.seconds += 0.5
    assert 5 <= sum(moment <= 75 for moment in kills_at) <= 8
    assert sum(moment > 75 for moment in kills_at) <= 6


async def test_beside_others_it_kills_once_in_company_and_they_are_soon_rid_of_it(shared: World, leaps: Leaps) -> None:
    engine, pool = Mortal(shared), shared.runner.pool
    kills_at, hit_at, mix = [], [], ["kill", "fine"]
    while leaps.seconds < 130:
        before = engine.kills
        engine.slow_may_end.clear()
        job_id = names.new_job_id()
        slow = begin(shared, job_id, data="slow", tenant="acme")
        await until_async(lambda: pool.tenants.held("acme"))
        umbra = begin(shared, names.new_job_id(), data=mix[0], tenant="umbra")
        while not umbra.done() and not blame_of(shared).is_suspect("umbra"):
            await asyncio.sleep(0.001)
        engine.slow_may_end.set()
        assert all(await asyncio.gather(slow, umbra))
        if shared.record(job_id).status is not Status.SUCCEEDED:
            hit_at.append(leaps.seconds)
        if engine.kills > before:
            kills_at.append(leaps.seconds)
        mix.reverse()
        assert pool.held_back_seconds("acme") == 0
        leaps.seconds += 1.0
    assert 5 <= sum(moment <= 75 for moment in kills_at) <= 8
    assert sum(moment > 75 for moment in kills_at) <= 1
    assert hit_at == [0.0]
    assert not blame_of(shared).is_suspect("acme")


async def test_tenants_whose_jobs_were_at_the_engine_when_it_died_are_suspects_for_a_minute_and_not_held_back(
    shared: World, leaps: Leaps
) -> None:
    Crash(shared)
    tasks = await wait_in_line(shared, "acme", 1)
    tasks += await wait_in_line(shared, "umbra", 1)
    assert all(await asyncio.gather(*tasks))
    for tenant in ("acme", "umbra"):
        assert blame_of(shared).is_suspect(tenant)
        assert shared.runner.pool.held_back_seconds(tenant) == 0
    leaps.seconds += 61
    assert not blame_of(shared).is_suspect("acme")
