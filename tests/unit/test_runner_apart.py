"""Suspects of an engine's death run apart from other tenants, and nobody starves."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.runner import World, patient_batch, runner_world
from tests.support.steps import Leaps, Steps, blame_of, dies, finish, records_of, wait_in_line
from tests.support.waiting import until_async

from enginehouse.contracts.engine import Batch
from enginehouse.runner.blame import Blame
from enginehouse.runner.replicas import Replica, ReplicaPool
from enginehouse.runner.tenants import Asker

PLACES = 2
UMBRA, ACME, ZETA = Asker("umbra"), Asker("acme"), Asker("zeta")


async def test_a_suspects_jobs_begin_when_no_others_run_and_others_begin_when_they_have_ended(shared: World) -> None:
    steps = Steps(shared)
    blame_of(shared).note_suspicion("umbra")
    tasks = await wait_in_line(shared, "acme", 1)
    await until_async(lambda: len(steps.begun) == 1)
    tasks += await wait_in_line(shared, "umbra", PLACES + 1)
    tasks += await wait_in_line(shared, "zeta", 1)
    assert steps.begun == ["acme"], "the other place stays free, so that the engine is soon empty"
    steps.end_all()
    await until_async(lambda: len(steps.begun) == 3)
    assert steps.begun[1:] == ["umbra"] * PLACES, "its own jobs are no company"
    steps._ends.pop(0).set()
    await until_async(lambda: shared.runner.pool.replicas[0].places_taken == 1)
    assert len(steps.begun) == 3
    steps.end_all()
    await until_async(lambda: len(steps.begun) == 4)
    assert steps.begun[3] == "zeta"
    await finish(steps, tasks)
    assert steps.begun[4:] == ["umbra"]


async def test_a_suspect_and_others_that_keep_the_engine_full_share_it_as_the_weights_say(tmp_path: Path) -> None:
    async with runner_world(tmp_path, concurrency=4) as world:
        world.runner.pool.tenants.blame = Blame()
        steps = Steps(world)
        blame_of(world).note_suspicion("umbra")
        tasks = await wait_in_line(world, "gold", 40, weight=2)
        tasks += await wait_in_line(world, "umbra", 20)
        while len(steps.begun) < 48:
            begun = len(steps.begun)
            await until_async(lambda: len(steps._ends) == world.runner.pool.replicas[0].places_taken)
            steps.end_all()
            while len(steps.begun) == begun:
                await asyncio.sleep(0.001)
        await finish(steps, tasks)
        apart = [at for at, tenant in enumerate(steps.begun[:48]) if tenant == "umbra"]
        assert 12 <= len(apart) <= 20
        assert all(steps.begun[at : at + 4] == ["umbra"] * 4 for at in apart[::4])


async def test_one_that_comes_new_waits_for_one_turn_of_many_suspects(shared: World) -> None:
    steps = Steps(shared)
    suspects = [f"umbra-{number}" for number in range(5)]
    tasks: list[asyncio.Task[bool]] = []
    for tenant in suspects:
        blame_of(shared).note_suspicion(tenant)
        tasks += await wait_in_line(shared, tenant, 3)
    await until_async(lambda: len(steps.begun) == 1)
    tasks += await wait_in_line(shared, "acme", 1)
    steps.end_all()
    await until_async(lambda: len(steps.begun) == 2)
    assert steps.begun == [suspects[0], "acme"]
    await finish(steps, tasks)
    assert sorted(set(steps.begun[2:12])) == suspects, "none of them starves"


class Named:
    """Stands for the client of a replica of which only the address counts."""

    warning = None

    def __init__(self, address: str) -> None:
        self.address = address


def pool_of(replicas: int, suspects: Sequence[Asker] = (UMBRA,)) -> ReplicaPool:
    blame = Blame()
    for suspect in suspects:
        blame.note_suspicion(suspect.tenant)
    clients: list[Any] = [Named(f"engine:{number}") for number in range(replicas)]
    pool = ReplicaPool(clients, PLACES, blame=blame)
    for replica in pool.replicas:
        pool.set_health(replica, True)
    return pool


async def waiting(pool: ReplicaPool, asker: Asker) -> "asyncio.Task[Replica | None]":
    task = asyncio.create_task(pool.wait(asker, 5))
    await asyncio.sleep(0)
    return task


async def test_one_replica_is_emptied_for_a_suspect_and_others_go_on_at_the_rest() -> None:
    pool = pool_of(2)
    one, two = pool.replicas
    assert [pool.take(ACME) for _ in range(3)] == [one, two, one]
    suspects = await waiting(pool, UMBRA)
    assert two.kept_for == "umbra"
    another = await waiting(pool, ZETA)
    pool.release(one, ACME)
    assert await another is one
    pool.release(two, ACME)
    assert await suspects is two
    assert await waiting(pool, ACME)
    assert pool.take(UMBRA) is None, "one turn at a time"
    pool.release(two, UMBRA)
    assert two.kept_for is None


async def test_what_is_emptied_for_a_suspect_is_others_again_when_it_waits_no_more(leaps: Leaps) -> None:
    pool = pool_of(1)
    (replica,) = pool.replicas
    for end in ("canceled", "held back", "cleared"):
        assert pool.take(ACME) is replica
        suspects, others = await waiting(pool, UMBRA), await waiting(pool, ZETA)
        assert (replica.kept_for, others.done()) == ("umbra", False)
        if end == "canceled":
            suspects.cancel()
        elif end == "held back":
            pool.note_trouble("umbra", replica, died=True, in_company=False)
            assert await suspects is None
            leaps.seconds += 1.1
        else:
            leaps.seconds += 61
            pool.release(replica, ACME)
            assert await suspects is replica, "it runs beside others"
            assert pool.take(ACME) is None
            pool.release(replica, UMBRA)
            assert pool.take(ACME) is replica
        assert await others is replica
        pool.release(replica, ZETA)
        pool.release(replica, ACME)
    assert replica.kept_for is None
    assert not pool.tenants._held


async def test_a_suspect_goes_to_another_replica_when_the_one_that_was_emptied_for_it_falls_ill() -> None:
    pool = pool_of(2)
    one, two = pool.replicas
    assert [pool.take(ACME) for _ in range(2)] == [one, two]
    suspects = await waiting(pool, UMBRA)
    assert one.kept_for == "umbra"
    pool.set_health(one, False)
    pool.release(two, ACME)
    assert await suspects is two
    assert [replica.kept_for for replica in pool.replicas] == [None, "umbra"]


async def test_a_call_that_kills_the_engine_makes_suspects_of_all_tenants_with_jobs_in_it(
    tmp_path: Path, leaps: Leaps
) -> None:
    async with runner_world(tmp_path, concurrency=1, batch=patient_batch(4)) as world:
        world.runner.pool.tenants.blame = Blame()
        world.engine.predict_batch = dies
        tasks = await wait_in_line(world, "acme", 2) + await wait_in_line(world, "umbra", 2)
        assert all(await asyncio.gather(*tasks))
        assert [record.attempt for record in records_of(world, tasks)] == [0] * 4
        assert all(blame_of(world).is_suspect(tenant) for tenant in ("acme", "umbra"))


async def test_a_call_that_holds_jobs_of_several_tenants_holds_none_of_a_suspect(tmp_path: Path, leaps: Leaps) -> None:
    async with runner_world(tmp_path, concurrency=1, batch=Batch(max_size=4, max_delay_ms=20)) as world:
        world.runner.pool.tenants.blame = Blame()
        blame_of(world).note_suspicion("umbra")
        steps, world.engine.predict_batch = Steps(world), dies
        tasks = await wait_in_line(world, "acme", 1)
        # The only call is out, so those that come now would share the next one.
        await until_async(lambda: len(steps.begun) == 1)
        tasks += await wait_in_line(world, "umbra", 2)
        tasks += await wait_in_line(world, "acme", 1)
        await finish(steps, tasks)
        assert [call["data"] for call in world.engine.batches] == [["umbra"] * 2]
        assert steps.begun == ["acme"] * 2
        assert blame_of(world).seconds_left("umbra") > 0
        assert not blame_of(world).is_suspect("acme")
