"""The queue: windows are never exceeded, the order is fair, and a hand-over can be undone."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, text
from tests.support.ledger import (
    ENGINE,
    OPTIONS,
    accepted,
    handed_over,
    mirror,
    new_job,
    opened,
    row_of,
    shift,
)

from enginehouse.contracts.job import Status, StatusReason
from enginehouse.contracts.moments import now
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.schema import jobs
from enginehouse.gateway.ledger.windows import FillWindow, Requeue
from enginehouse.turns import Turns

_COPIED_AT_ONCE = 500


async def fill(ledger: Ledger, window: int, engine: str = ENGINE, *, later: float = 0, **order: Any) -> list[str]:
    return [row.id for row in await ledger.fill_window(FillWindow(engine, window, time.time() + later, **order))]


async def waiting(ledger: Ledger, count: int = 1, tenant: str = "acme", **columns: Any) -> list[str]:
    """Jobs in the queue, none of them handed over."""
    jobs = [new_job(tenant, window=0, **columns) for _ in range(count)]
    await asyncio.gather(*(ledger.insert(job) for job in jobs))
    return [job.row.id for job in jobs]


async def many_waiting(ledger: Ledger, count: int, **columns_of_it: Any) -> None:
    """As `waiting`, for tens of thousands: copies of one job, made by the database itself."""
    (one,) = await waiting(ledger, **columns_of_it)
    columns = ", ".join(column.name for column in jobs.c if column.name != "id")
    # Ids that sort as the real ones do, all before those of jobs that come later.
    number = "substr('00000000' || n, -12)" if ledger.database.dialect == "sqlite" else "lpad(n::text, 12, '0')"
    copies = text(
        f"WITH RECURSIVE numbers(n) AS (SELECT CAST(:first AS integer) UNION ALL SELECT n + 1 FROM numbers WHERE n < :last) "
        f"INSERT INTO jobs (id, {columns}) SELECT substr(id, 1, 24) || {number}, {columns} FROM jobs, numbers "
        "WHERE id = :one"
    )
    for first in range(1, count, _COPIED_AT_ONCE):
        last = min(first + _COPIED_AT_ONCE, count) - 1
        some = copies.bindparams(first=first, last=last, one=one)
        await ledger.database.transact(partial(Connection.execute, statement=some), durable=False)


async def test_a_window_that_is_nearly_full_waits_for_room_for_a_group(ledger: Ledger) -> None:
    in_hand = [await accepted(ledger) for _ in range(6)]
    ids = await waiting(ledger, 4)
    assert await fill(ledger, 8, at_least=3) == []
    assert await fill(ledger, 9, at_least=3) == ids[:3]
    assert await handed_over(ledger) == {*in_hand, *ids[:3]}


async def test_a_job_for_which_there_is_room_is_handed_over_at_once(ledger: Ledger) -> None:
    results = [await ledger.insert(new_job(window=2)) for _ in range(3)]
    assert [result.handed_over for result in results] == [True, True, False]
    assert await handed_over(ledger) == {result.job_id for result in results[:2]}


async def test_a_burst_that_is_committed_together_stays_within_the_window(ledger: Ledger) -> None:
    results = await asyncio.gather(*(ledger.insert(new_job(window=7)) for _ in range(100)))
    assert sum(result.handed_over for result in results) == 7
    assert len(await handed_over(ledger)) == 7


async def test_windows_of_engines_are_their_own(ledger: Ledger) -> None:
    engines = ["acme--echo", "acme--other", "shared--standard"]
    await asyncio.gather(*(ledger.insert(new_job(engine=engine, window=3)) for engine in engines for _ in range(10)))
    assert [len(await handed_over(ledger, engine)) for engine in engines] == [3, 3, 3]


async def test_an_engine_that_is_paused_is_handed_nothing(ledger: Ledger) -> None:
    await waiting(ledger, 5)
    assert await fill(ledger, 0) == []
    assert await handed_over(ledger) == set()


async def test_a_new_job_does_not_overtake_those_that_wait(ledger: Ledger) -> None:
    first = await waiting(ledger)
    assert not (await ledger.insert(new_job(window=10))).handed_over
    assert (await fill(ledger, 1)) == first


async def test_filling_hands_over_exactly_the_room_there_is(ledger: Ledger) -> None:
    await waiting(ledger, 20)
    assert len(await fill(ledger, 8)) == 8
    assert await fill(ledger, 8) == []
    assert len(await fill(ledger, 10)) == 2
    for job_id in list(await handed_over(ledger))[:4]:
        await mirror(ledger, job_id, Status.SUCCEEDED)
    assert len(await fill(ledger, 10)) == 4


async def test_no_race_of_filling_and_inserting_exceeds_the_window(ledger: Ledger) -> None:
    await waiting(ledger, 30)
    filled, inserted = await asyncio.gather(
        asyncio.gather(*(ledger.fill_window(FillWindow(ENGINE, 12, time.time())) for _ in range(10))),
        asyncio.gather(*(ledger.insert(new_job(window=12)) for _ in range(30))),
    )
    given = [row.id for rows in filled for row in rows] + [r.job_id for r in inserted if r.handed_over]
    assert len(given) == len(set(given)) == 12
    assert await handed_over(ledger) == set(given)


async def test_a_job_is_handed_over_once(ledger: Ledger) -> None:
    await waiting(ledger, 50)
    rounds = await asyncio.gather(*(ledger.fill_window(FillWindow(ENGINE, 50, time.time())) for _ in range(10)))
    given = [row.id for rows in rounds for row in rows]
    assert len(given) == len(set(given)) == 50


async def test_what_is_handed_over_carries_all_that_its_event_needs(ledger: Ledger) -> None:
    job = new_job(window=0, traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    await ledger.insert(job)
    (row,) = await ledger.fill_window(FillWindow(ENGINE, 1, time.time()))
    expected = {
        name: getattr(job.row, name) for name in ("id", "tenant", "engine", "input", "traceparent", "queue_deadline")
    }
    assert {name: getattr(row, name) for name in expected} == expected
    assert (row.options, row.attempts) == (OPTIONS, 0)


async def test_older_jobs_first(ledger: Ledger) -> None:
    ids = await waiting(ledger, 10)
    assert await fill(ledger, 4) + await fill(ledger, 10) == ids


async def test_higher_priority_first_among_a_tenants_own_jobs(ledger: Ledger) -> None:
    low, usual, high = [await waiting(ledger, 2, priority=priority) for priority in (0, 4, 9)]
    assert await fill(ledger, 9) == high + usual + low


async def test_a_priority_says_nothing_to_other_tenants(ledger: Ledger) -> None:
    usual = await waiting(ledger, 3)
    high = await waiting(ledger, 3, "umbra", priority=9)
    assert await fill(ledger, 9) == [job_id for pair in zip(usual, high, strict=True) for job_id in pair]


async def test_a_tenant_of_weight_three_gets_three_places_for_one_of_another(ledger: Ledger) -> None:
    gold, bronze = await waiting(ledger, 30, "gold"), await waiting(ledger, 30, "bronze")
    order = await fill(ledger, 32, weights={"gold": 3})
    assert sorted(order) == sorted(gold[:24] + bronze[:8])
    for first in range(0, 32, 4):
        assert len(set(order[first : first + 4]) & set(gold)) == 3


async def test_tenants_take_turns_also_where_the_window_holds_one_job(ledger: Ledger) -> None:
    turns = Turns()
    flood, late = await waiting(ledger, 10, "acme"), await waiting(ledger, 2, "umbra")
    order = []
    for _ in range(4):
        (job_id,) = await fill(ledger, 1, turns=turns)
        turns.take((await row_of(ledger, job_id)).tenant, 1)
        await mirror(ledger, job_id, Status.SUCCEEDED)
        order.append(job_id)
    assert order == [flood[0], late[0], flood[1], late[1]]


async def test_tenants_take_turns(ledger: Ledger) -> None:
    ids = {name: await waiting(ledger, 4, name) for name in ("acme", "umbra", "zeta")}
    order = await fill(ledger, 12)
    assert order == [ids[name][turn] for turn in range(4) for name in ("acme", "umbra", "zeta")]


async def test_a_tenant_with_jobs_in_the_window_stands_behind_one_without(ledger: Ledger) -> None:
    await waiting(ledger, 10, "acme")
    await fill(ledger, 4)
    theirs = await waiting(ledger, 4, "umbra")
    assert await fill(ledger, 8) == theirs


@pytest.mark.parametrize("window", [4, 32])
async def test_ten_thousand_urgent_jobs_of_one_tenant_leave_the_first_free_place_to_another_ones_job(
    ledger: Ledger, window: int
) -> None:
    await many_waiting(ledger, 10_000, priority=9)
    assert len(await fill(ledger, window)) == window
    (theirs,) = await waiting(ledger, 1, "umbra")
    started = 0
    for ended in sorted(await handed_over(ledger)):
        await mirror(ledger, ended, Status.SUCCEEDED)
        started += 1
        if theirs in await fill(ledger, window):
            break
    assert started == 1
    assert theirs in await handed_over(ledger)


async def test_a_job_waits_until_its_retry_is_due(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    await mirror(ledger, job_id, Status.RUNNING)
    await mirror(ledger, job_id, Status.QUEUED, retry_at=now())
    await shift(ledger, job_id, available_at=60)
    assert await fill(ledger, 5) == []
    assert await fill(ledger, 5, later=61) == [job_id]


async def test_a_retry_that_is_not_due_holds_up_nobody(ledger: Ledger) -> None:
    (later,) = await waiting(ledger)
    await shift(ledger, later, available_at=60)
    others = await waiting(ledger, 3)
    assert await fill(ledger, 2) == others[:2]


async def test_a_job_past_its_queue_clock_is_not_handed_over(ledger: Ledger) -> None:
    await waiting(ledger, 1, queue_deadline=time.time() - 1)
    assert await fill(ledger, 5) == []


async def test_taken_back_a_job_waits_again_with_its_reason(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    await ledger.requeue(Requeue((job_id,), StatusReason.WAITING_FOR_BROKER, time.time()))
    row = await row_of(ledger, job_id)
    assert (row.status, row.status_reason, row.handed_over_at) == ("queued", "waiting_for_broker", None)
    assert await fill(ledger, 1) == [job_id]
    row = await row_of(ledger, job_id)
    assert (row.status_reason, row.hand_overs, row.losses) == (None, 2, 0), "the broker was away"


async def test_taken_back_from_a_vanished_worker_the_attempt_that_began_is_counted(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    await mirror(ledger, job_id, Status.RUNNING)
    await ledger.requeue(Requeue((job_id,), None, time.time()))
    row = await row_of(ledger, job_id)
    assert (row.status, row.attempts, row.losses) == ("queued", 1, 1)


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
async def test_an_ended_job_cannot_be_taken_back(ledger: Ledger, status: Status) -> None:
    job_id = await accepted(ledger)
    await mirror(ledger, job_id, status)
    await ledger.requeue(Requeue((job_id,), None, time.time()))
    assert (await row_of(ledger, job_id)).status == status
    assert await fill(ledger, 1) == []


async def test_a_hand_over_that_has_happened_since_is_not_taken_back(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    seen = time.time()
    await ledger.requeue(Requeue((job_id,), None, seen))
    assert await fill(ledger, 1, later=1) == [job_id]
    await ledger.requeue(Requeue((job_id,), None, seen))
    assert await handed_over(ledger) == {job_id}


async def test_two_gateways_never_hand_over_the_same_job_nor_more_than_the_window(postgres_url: str) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        await waiting(one, 200)
        given: list[str] = []
        while len(given) < 200:
            rounds = await asyncio.gather(
                *(ledger.fill_window(FillWindow(ENGINE, 16, time.time())) for ledger in (one, other) for _ in range(3))
            )
            new = [row.id for rows in rounds for row in rows]
            assert len(new) == 16 or len(given) + len(new) == 200
            assert len(await handed_over(one)) <= 16
            given += new
            await asyncio.gather(*(mirror(other, job_id, Status.SUCCEEDED) for job_id in new))
        assert len(set(given)) == 200


async def test_two_gateways_that_accept_at_once_stay_within_the_window(postgres_url: str) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        for round_ in range(15):
            engine = f"acme--echo{round_}"
            results = await asyncio.gather(
                *(ledger.insert(new_job(engine=engine, window=5)) for ledger in (one, other) for _ in range(8))
            )
            given = {result.job_id for result in results if result.handed_over}
            assert await handed_over(one, engine) == given
            assert len(given) <= 5
            given |= {row.id for row in await one.fill_window(FillWindow(engine, 5, time.time()))}
            assert len(given) == 5


async def test_two_gateways_busy_with_the_same_engines_do_not_stand_in_each_others_way(postgres_url: str) -> None:
    engines = [f"acme--echo{number}" for number in range(6)]
    async with opened(postgres_url) as one, opened(postgres_url) as other:

        async def work(ledger: Ledger, order: list[str]) -> None:
            for _ in range(15):
                await asyncio.gather(
                    *(ledger.insert(new_job(engine=engine, window=3)) for engine in order),
                    *(ledger.fill_window(FillWindow(engine, 3, time.time())) for engine in order),
                )

        await asyncio.wait_for(asyncio.gather(work(one, engines), work(other, engines[::-1])), 30)
        for engine in engines:
            await one.fill_window(FillWindow(engine, 3, time.time()))
            assert len(await handed_over(one, engine)) == 3
