"""The ledger lists jobs in pages, and finds those that are due."""

import time
from typing import Any

import pytest
from tests.support.ledger import ENGINE, accepted, mirror, new_job, row_of, shift

from enginehouse.contracts.job import Status
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.deletion import Forget
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.read import Listing


async def listed(ledger: Ledger, **wanted: Any) -> list[str]:
    given = {"tenant": "acme", "engine": None, "status": None, "cursor": None, "limit": 100} | wanted
    return [row.id for row in await ledger.read(read.list_jobs, Listing(**given))]


async def test_the_newest_come_first_and_only_the_tenants_own(ledger: Ledger) -> None:
    mine = [await accepted(ledger) for _ in range(5)]
    await accepted(ledger, tenant="umbra")
    assert await listed(ledger) == mine[::-1]


@pytest.mark.parametrize("limit", [1, 3, 10, 11])
async def test_pages_hold_every_job_once_also_while_new_ones_come(ledger: Ledger, limit: int) -> None:
    mine = [await accepted(ledger) for _ in range(10)]
    seen: list[str] = []
    while page := await listed(ledger, limit=limit, cursor=seen[-1] if seen else None):
        assert len(page) <= limit
        seen += page
        await accepted(ledger)
    assert seen == mine[::-1]


async def test_by_engine_and_by_status(ledger: Ledger) -> None:
    ended, waiting = await accepted(ledger), await accepted(ledger)
    other = await accepted(ledger, engine="acme--other")
    await mirror(ledger, ended, Status.SUCCEEDED)
    assert await listed(ledger, engine="acme--other") == [other]
    assert await listed(ledger, status=Status.SUCCEEDED) == [ended]
    assert await listed(ledger, engine=ENGINE, status=Status.QUEUED) == [waiting]


async def test_what_is_past_its_queue_clock(ledger: Ledger) -> None:
    past = await accepted(ledger, queue_deadline=time.time() - 1)
    running = await accepted(ledger, queue_deadline=time.time() - 1)
    await mirror(ledger, running, Status.RUNNING)
    await accepted(ledger)
    rows = await ledger.read(read.past_queue_deadline, time.time(), 10)
    assert [row.id for row in rows] == [past]


async def test_what_is_handed_over_for_a_while(ledger: Ledger) -> None:
    before, just_now = await accepted(ledger), await accepted(ledger)
    await shift(ledger, before, handed_over_at=-10)
    await ledger.insert(new_job(window=0))
    ended = await accepted(ledger)
    await mirror(ledger, ended, Status.SUCCEEDED)
    assert [row.id for row in await ledger.read(read.handed_over, [ENGINE], time.time() - 5)] == [before]
    assert {row.id for row in await ledger.read(read.handed_over, [ENGINE], time.time() + 5)} == {before, just_now}


async def test_a_result_past_its_time_is_let_go_of_and_much_later_its_row(ledger: Ledger) -> None:
    job_id, kept = await accepted(ledger), await accepted(ledger)
    for ended in (job_id, kept):
        await mirror(ledger, ended, Status.SUCCEEDED, output={"a": 1})
    await shift(ledger, job_id, result_expires_at=-601)
    rows = await ledger.read(read.past_result, time.time(), 10)
    assert [row.id for row in rows] == [job_id]
    await ledger.delete_payloads((job_id,))
    row = await row_of(ledger, job_id)
    assert (row.input, row.output, row.status, row.purged) == (None, None, "succeeded", True)
    assert await ledger.read(read.past_result, time.time(), 10) == []
    await ledger.forget(Forget(time.time() - 3_600, time.time(), 10))
    assert await ledger.read(read.job, job_id) is not None
    await ledger.forget(Forget(time.time(), time.time(), 10))
    assert await ledger.read(read.job, job_id) is None
    assert (await row_of(ledger, kept)).output == '{"a":1}'


async def test_which_engine_the_ledger_names_for_a_job(ledger: Ledger) -> None:
    mine, other = await accepted(ledger), await accepted(ledger, engine="acme--other")
    found = await ledger.read(read.engines_of, [mine, other, new_job_id()])
    assert found == {mine: ENGINE, other: "acme--other"}
