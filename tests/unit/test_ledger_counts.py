"""The ledger's counts of jobs that wait or are handed over are true after every change, on both databases."""

import asyncio
import random
import time

from sqlalchemy import text
from tests.support.ledger import ENGINE, accepted, mirror, new_job, opened

from enginehouse.contracts.job import JobRecord, Status, StatusReason
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import engine_of
from enginehouse.gateway.ledger import counts, read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.mirror import Mirror
from enginehouse.gateway.ledger.windows import FillWindow, Requeue

_TRUE = text(
    "SELECT engine, tenant, sum(CASE WHEN handed_over_at IS NULL THEN 1 ELSE 0 END), count(handed_over_at) FROM jobs "
    "WHERE status IN ('queued', 'running') GROUP BY engine, tenant ORDER BY engine, tenant"
)
_TRIAL = "acme--echo@trial"
_ENGINES = (ENGINE, "acme--other", _TRIAL)


async def counted(ledger: Ledger) -> list[tuple[str, str, int, int]]:
    return sorted(
        (each.engine, each.tenant, each.waiting, each.handed_over) for each in await ledger.read(counts.of_tenants)
    )


async def true_counts(ledger: Ledger) -> list[tuple[str, str, int, int]]:
    return await ledger.read(lambda connection: [tuple(row) for row in connection.execute(_TRUE)])


async def change_something(ledger: Ledger, chance: random.Random) -> None:
    """Make one of the changes that a job can go through."""
    engine, tenant = chance.choice(_ENGINES), chance.choice(("acme", "umbra"))
    rows = await ledger.read(read.unfinished_of, list(_ENGINES), 100)
    row = chance.choice(rows) if rows else None
    match chance.randrange(8):
        case 0 | 1:
            await ledger.insert(new_job(tenant, engine, window=chance.choice((0, 1_000))))
        case 2:
            await ledger.fill_window(FillWindow(engine, chance.randrange(6), time.time()))
        case 3 if row:
            await ledger.requeue(Requeue((row.id,), StatusReason.WAITING_FOR_BROKER, time.time()))
        case 4 if row:
            record = JobRecord(status=Status.RUNNING, attempt=row.attempts + 1, started_at=now())
            await ledger.mirror(Mirror(row.id, record, time.time(), engine_of(row.engine)))
        case 5 if row:
            record = JobRecord(status=chance.choice((Status.SUCCEEDED, Status.CANCELED)), attempt=row.attempts + 1)
            await ledger.mirror(Mirror(row.id, record, time.time(), engine_of(row.engine)))
        case 6 if row:
            await ledger.delete_jobs((row.id,))
        case 7:
            await ledger.address_anew(_TRIAL, ENGINE)
            await ledger.fold_counts()


async def test_counts_are_true_after_every_change(ledger: Ledger) -> None:
    chance = random.Random(7)
    for _ in range(150):
        await change_something(ledger, chance)
        assert await counted(ledger) == await true_counts(ledger)
    assert await counted(ledger) != []


async def test_counts_by_engine(ledger: Ledger) -> None:
    for tenant, window in (("acme", 10), ("acme", 0), ("umbra", 0)):
        await ledger.insert(new_job(tenant, window=window))
    await mirror(ledger, await accepted(ledger, engine="acme--other"), Status.RUNNING, engine="acme--other")
    await mirror(ledger, await accepted(ledger, engine="acme--ended"), Status.FAILED, engine="acme--ended")
    assert set((await ledger.read(counts.of_engines)).values()) == {(ENGINE, 2, 1), ("acme--other", 0, 1)}
    assert set(await ledger.read(read.engines_in_hand)) == {ENGINE, "acme--other"}
    assert await ledger.read(counts.of_these, [ENGINE, "acme--nothing"]) == {ENGINE: (ENGINE, 2, 1)}


async def test_what_is_wrong_is_found_and_corrected(ledger: Ledger) -> None:
    await accepted(ledger, window=0)
    assert await ledger.read(counts.wrong, ENGINE) == []
    wrong = text("UPDATE job_counts SET waiting = 7, handed_over = 2")
    await ledger.database.transact(lambda connection: connection.execute(wrong), durable=False)
    assert await ledger.read(counts.wrong, ENGINE) == [(ENGINE, "acme", 6, 2)]
    await ledger.correct_counts(ENGINE)
    assert await counted(ledger) == await true_counts(ledger) == [(ENGINE, "acme", 1, 0)]


async def test_two_gateways_count_at_once_without_waiting_for_each_other(postgres_url: str) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        tasks = [change_something(ledger, random.Random(n)) for n in range(40) for ledger in (one, other)]
        await asyncio.gather(*tasks)
        assert await counted(one) == await true_counts(one) != []
        await asyncio.gather(one.fold_counts(), other.fold_counts())
        assert await counted(other) == await true_counts(other)


async def test_jobs_whose_time_has_not_come_are_not_due(ledger: Ledger) -> None:
    present = time.time()
    for engine, waiting in ((ENGINE, 3), ("acme--other", 1), (_TRIAL, 2)):
        for _ in range(waiting):
            await accepted(ledger, engine=engine, window=0)
    for engine, seconds in ((ENGINE, 60), (ENGINE, -1), ("acme--third", 60), (_TRIAL, 60)):
        await accepted(ledger, engine=engine, window=0, created_at=present - 100, available_at=present + seconds)
    await accepted(ledger, engine=ENGINE, window=0)
    await ledger.fill_window(FillWindow(ENGINE, 1, present))
    due = await ledger.read(counts.due_of_engines, time.time())
    assert {engine: count[1:] for engine, count in due.items()} == {
        ENGINE: (4, 1),
        "acme--other": (1, 0),
        "acme--third": (0, 0),
        _TRIAL: (2, 0),
    }
    all_due = await ledger.read(counts.due_of_engines, present + 61)
    assert [all_due[engine].waiting for engine in (ENGINE, "acme--third", _TRIAL)] == [5, 1, 3]
