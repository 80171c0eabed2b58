"""Writes that arrive together are committed together, a bad one fails alone, and closing commits what has arrived."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, func, select
from tests.support.ledger import accepted, new_job, opened, row_of, sqlite_url

from enginehouse.contracts.errors import EnginehouseError, Unavailable, UnsafeSettings
from enginehouse.gateway.ledger.database import as_unavailable, open_database
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.schema import jobs
from enginehouse.gateway.ledger.windows import FillWindow


class Transactions:
    """Counts the transactions of a ledger."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.durable: list[bool] = []
        original = ledger.database.transact

        async def counted(work: Callable[[Connection], Any], *, durable: bool) -> Any:
            self.durable.append(durable)
            return await original(work, durable=durable)

        monkeypatch.setattr(ledger.database, "transact", counted)


async def count(ledger: Ledger) -> int:
    rows: int = await ledger.read(lambda connection: connection.execute(select(func.count(jobs.c.id))).scalar_one())
    return rows


async def test_what_arrives_together_is_committed_together(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = Transactions(ledger, monkeypatch)
    await asyncio.gather(*(ledger.insert(new_job()) for _ in range(500)))
    assert await count(ledger) == 500
    assert len(transactions.durable) <= 10
    assert all(transactions.durable)


async def test_only_what_a_caller_was_promised_waits_for_the_disk(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = Transactions(ledger, monkeypatch)
    await ledger.fill_window(FillWindow("acme--echo", 10, 0))
    await ledger.insert(new_job())
    assert transactions.durable == [False, True]


@pytest.mark.parametrize("bad", [{"id": None}, {"engine": None}, {"priority": object()}])
async def test_one_bad_write_fails_alone(ledger: Ledger, bad: dict[str, Any]) -> None:
    good = [new_job() for _ in range(5)]
    wrong = new_job(**bad)
    results = await asyncio.gather(*(ledger.insert(job) for job in [*good, wrong]), return_exceptions=True)
    assert isinstance(results[-1], EnginehouseError | TypeError)
    assert [getattr(result, "job_id", None) for result in results[:-1]] == [job.row.id for job in good]
    assert await count(ledger) == 5


async def test_the_same_job_twice_is_refused_and_the_first_stays(ledger: Ledger) -> None:
    job = new_job()
    await ledger.insert(job)
    with pytest.raises(Unavailable):
        await ledger.insert(job)
    assert await count(ledger) == 1


async def test_closing_commits_what_has_arrived_and_tells_so(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    await ledger.open()
    inserts = [asyncio.create_task(ledger.insert(new_job())) for _ in range(300)]
    await asyncio.sleep(0)
    await ledger.close()
    # Before anything else runs: whoever waits for a closing gateway must not wait for ever.
    assert len(await asyncio.wait_for(asyncio.gather(*inserts), 20)) == 300
    async with opened(ledger_url) as again:
        assert await count(again) == 300


async def test_a_caller_that_goes_away_takes_nothing_with_it(ledger: Ledger) -> None:
    leaving, staying = new_job(), new_job()
    tasks = [asyncio.create_task(ledger.insert(job)) for job in (leaving, staying)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert (await tasks[1]).job_id == staying.row.id
    assert await accepted(ledger)


@pytest.mark.parametrize("text", ["\\u0000", "😀", "'; DROP TABLE jobs; --", "\x01\x7f", "\\ud800"])
async def test_text_comes_back_as_it_was_stored(ledger: Ledger, text: str) -> None:
    job_id = await accepted(ledger, input=f'"{text}"')
    assert (await row_of(ledger, job_id)).input == f'"{text}"'


async def test_a_second_gateway_may_not_open_the_same_file(tmp_path: Path) -> None:
    async with opened(sqlite_url(tmp_path)):
        with pytest.raises(UnsafeSettings, match="several gateways need PostgreSQL"):
            await Ledger(sqlite_url(tmp_path)).open()
    async with opened(sqlite_url(tmp_path)) as after:
        assert await count(after) == 0


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_a_ledger_in_memory_is_refused(url: str) -> None:
    with pytest.raises(UnsafeSettings):
        await Ledger(url).open()


def modes_in(folder: Path) -> set[tuple[str, int]]:
    return {(path.name, path.stat().st_mode & 0o777) for path in folder.glob("ledger.sqlite*")}


async def test_what_was_accepted_is_its_owners_alone_to_read(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/ledger.sqlite") as ledger:
        await ledger.insert(new_job())
        modes = modes_in(tmp_path)
    assert modes >= {(f"ledger.sqlite{part}", 0o600) for part in ("", "-wal", "-shm")}


@pytest.mark.parametrize(
    "error", [asyncpg.CannotConnectNowError("starting up"), asyncpg.InterfaceError("closed"), ConnectionRefusedError()]
)
def test_a_database_that_is_away_is_unavailable_and_no_fault_of_ours(error: Exception) -> None:
    database = open_database("postgresql://nobody@127.0.0.1/none")
    assert isinstance(as_unavailable(error, database), Unavailable)
