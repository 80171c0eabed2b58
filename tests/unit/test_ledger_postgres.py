"""Over PostgreSQL: what a gateway hears of others, when commits wait for the disk, and what a failure leaves behind."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import greenlet_spawn
from tests.support.ledger import accepted, handed_over, mirror, new_job, opened, row_of
from tests.support.waiting import until_async

from enginehouse.contracts.errors import UnsafeSettings
from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger import postgres
from enginehouse.gateway.ledger.accept import accept_and_fill
from enginehouse.gateway.ledger.database import NOTIFY_CHANNEL
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.windows import FillWindow, lock_windows

ENGINE = "acme--echo"


@pytest.fixture
async def one(postgres_url: str) -> AsyncIterator[Ledger]:
    async with opened(postgres_url) as made:
        yield made


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[Ledger]:
    async with opened(postgres_url) as made:
        yield made


def execute(statement: str) -> Any:
    return lambda connection: connection.execute(text(statement))


async def setting(ledger: Ledger, *, durable: bool) -> str:
    show = text("SHOW synchronous_commit")
    found: str = await ledger.database.transact(lambda c: c.execute(show).scalar_one(), durable=durable)
    return found


async def test_a_gateway_hears_of_jobs_that_others_have_ended_and_not_of_its_own(one: Ledger, other: Ledger) -> None:
    heard: list[str] = []
    connected = asyncio.Event()
    listening = asyncio.create_task(one.database.listen(heard.append, connected.set))
    await connected.wait()
    mine, theirs = await accepted(one), await accepted(one)
    await mirror(one, mine, Status.SUCCEEDED)
    await mirror(other, theirs, Status.SUCCEEDED)
    await until_async(lambda: heard)
    assert [payload.split() for payload in heard] == [[theirs]]
    # A gateway of the release before does not say who it is.
    await other.database.transact(execute(f"NOTIFY {NOTIFY_CHANNEL}, '{mine} {theirs}'"), durable=False)
    await until_async(lambda: len(heard) > 1)
    assert heard[1].split() == [mine, theirs]
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_only_what_is_durable_waits_for_the_disk(one: Ledger) -> None:
    assert [await setting(one, durable=durable) for durable in (True, False, True)] == ["on", "off", "on"]


async def test_a_server_whose_commits_do_not_wait_for_the_disk_is_refused(one: Ledger, postgres_url: str) -> None:
    database = make_url(postgres_url).database
    await one.database.transact(execute(f'ALTER DATABASE "{database}" SET synchronous_commit = off'), durable=True)
    try:
        with pytest.raises(UnsafeSettings, match="a power cut would lose accepted jobs"):
            await Ledger(postgres_url).open()
    finally:
        await one.database.transact(execute(f'ALTER DATABASE "{database}" RESET synchronous_commit'), durable=True)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_transaction_that_fails_leaves_nothing_behind(one: Ledger, durable: bool) -> None:
    job_id = await accepted(one)

    def fail(connection: Connection) -> None:
        connection.execute(text("UPDATE jobs SET worker = 'nobody'"))
        connection.execute(text("SELECT 1 / 0"))

    with pytest.raises(DBAPIError):
        await one.database.transact(fail, durable=durable)
    assert (await row_of(one, job_id)).worker is None
    await one.database.transact(execute("UPDATE jobs SET worker = 'somebody'"), durable=durable)
    assert (await row_of(one, job_id)).worker == "somebody"


async def test_a_transaction_that_is_given_up_leaves_nothing_behind(one: Ledger, other: Ledger) -> None:
    job_id = await accepted(one)
    change = execute("UPDATE jobs SET worker = 'nobody' WHERE pg_sleep(60) IS NOT NULL")
    changing = asyncio.create_task(one.database.transact(change, durable=True))

    async def is_waiting() -> bool:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        return bool(await other.read(lambda connection: connection.execute(query).scalar_one()))

    await until_async(is_waiting)
    changing.cancel()
    await asyncio.gather(changing, return_exceptions=True)
    await asyncio.wait_for(one.database.transact(execute("UPDATE jobs SET losses = 1"), durable=True), 10)
    row = await row_of(one, job_id)
    assert (row.worker, row.losses) == (None, 1)


async def test_connections_that_the_server_has_closed_are_replaced_unnoticed(
    one: Ledger, other: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accepted(one)
    monkeypatch.setattr(postgres, "_RESTED_SECONDS", -1)
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    await other.database.transact(execute(ended), durable=True)
    job_id = await accepted(one)
    assert (await row_of(one, job_id)).id == job_id


async def test_a_connection_in_use_is_not_asked_whether_it_works(one: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await one.is_well()
    monkeypatch.setattr(one.database._others.dialect, "do_ping", None)  # type: ignore[attr-defined]
    assert await one.is_well()


class Hold:
    """Holds an engine's window until it is released, as a gateway in the middle of a transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.locked = asyncio.Event()

    async def take(self) -> "asyncio.Task[None]":
        """Begin; return the transaction, which ends when it is canceled."""

        def hold(connection: Connection) -> None:
            assert lock_windows(connection, [ENGINE])
            self.locked.set()
            connection.execute(text("SELECT pg_sleep(60)"))

        holding = asyncio.create_task(self.ledger.database.transact(hold, durable=False))
        await self.locked.wait()
        return holding


async def test_a_window_that_another_gateway_holds_for_long_is_not_waited_for(one: Ledger, other: Ledger) -> None:
    holding = await Hold(other).take()
    inserted = await asyncio.wait_for(one.insert(new_job()), 5)
    assert not inserted.handed_over, "it waits in the queue, and its caller has it"
    assert (await asyncio.wait_for(one.insert(new_job(engine="acme--other")), 5)).handed_over
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    (row,) = await one.fill_window(FillWindow(ENGINE, 10, time.time()))
    assert await handed_over(one) == {row.id} == {inserted.job_id}


async def test_a_window_that_becomes_free_in_a_moment_is_waited_for(one: Ledger, other: Ledger) -> None:
    holding = await Hold(other).take()
    inserting = asyncio.create_task(one.insert(new_job()))
    asyncio.get_running_loop().call_later(0.02, holding.cancel)
    assert (await inserting).handed_over
    await asyncio.gather(holding, return_exceptions=True)


async def test_gateways_that_accept_and_fill_for_the_same_engines_do_not_wait_in_a_circle(
    one: Ledger, other: Ledger
) -> None:
    async def write(ledger: Ledger, accepts: str, fills: str) -> list[Any]:
        items = (new_job(engine=accepts), FillWindow(fills, 10_000, time.time()))
        return await ledger.database.transact(lambda connection: accept_and_fill(connection, items), durable=False)

    async def keep_writing(ledger: Ledger, accepts: str, fills: str) -> list[Any]:
        return [await write(ledger, accepts, fills) for _ in range(40)]

    written = await asyncio.gather(keep_writing(one, "acme--a", "acme--b"), keep_writing(other, "acme--b", "acme--a"))
    assert all(filled is not None for results in written for _, filled in results), "a window was not locked in time"


async def test_whoever_waits_looks_again_when_it_is_not_known_whether_a_commit_is_done(one: Ledger) -> None:
    told: list[str] = []
    listening = asyncio.create_task(one.database.listen(told.append, lambda: told.append("look")))
    await until_async(lambda: told == ["look"])
    refused_at_its_end = (
        "CREATE TEMP TABLE a (x int PRIMARY KEY)",
        "CREATE TEMP TABLE b (x int REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO b VALUES (1)",
    )

    def work(connection: Connection) -> None:
        for statement in refused_at_its_end:
            connection.exec_driver_sql(statement)

    with pytest.raises(DBAPIError):
        await one.database.transact(work, durable=True)
    assert told == ["look", "look"]
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_a_window_that_a_vanished_gateway_holds_is_free_soon(
    one: Ledger, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await accepted(one, new_job(window=0))
    monkeypatch.setattr(postgres, "_IDLE_IN_TRANSACTION", "300ms")
    async with opened(postgres_url) as vanished:
        holding = await greenlet_spawn(vanished.database._others.connect)  # type: ignore[attr-defined]
        await greenlet_spawn(holding.exec_driver_sql, "BEGIN")
        assert await greenlet_spawn(lock_windows, holding, [ENGINE])
        (row,) = await asyncio.wait_for(one.fill_window(FillWindow(ENGINE, 10, time.time())), 10)
        assert row.id == job_id
        await greenlet_spawn(holding.close)
