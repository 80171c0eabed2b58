"""A PostgreSQL that vanishes and leaves its connections half open is given up in time and found again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from tests.support.ledger import new_job, opened
from tests.support.postgres import PostgresServer
from tests.support.toxics import Proxy, proxy_to
from tests.support.waiting import until_async

from enginehouse.contracts.errors import Unavailable
from enginehouse.gateway.ledger.database import NOTIFY_CHANNEL, Patience, open_database
from enginehouse.gateway.ledger.ledger import Ledger


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    with proxy_to(postgres.port) as made:
        yield made


@pytest.fixture
async def ledger(proxy: Proxy, postgres_url: str) -> AsyncIterator[Ledger]:
    patience = Patience(connect_seconds=0.5, command_seconds=1.0, probe_seconds=0.2)
    url = make_url(postgres_url).set(port=proxy.port).render_as_string(hide_password=False)
    async with opened(url, patience) as made:
        yield made
        proxy.mend()


async def one(ledger: Ledger) -> int:
    found: int = await ledger.read(lambda connection: connection.execute(text("SELECT 1")).scalar_one())
    return found


async def test_reads_and_writes_end_in_time_and_work_again(ledger: Ledger, proxy: Proxy) -> None:
    assert await asyncio.gather(*(one(ledger) for _ in range(4))) == [1, 1, 1, 1]
    proxy.stall()
    began = time.monotonic()
    results = await asyncio.wait_for(
        asyncio.gather(
            *(one(ledger) for _ in range(8)), *(ledger.insert(new_job()) for _ in range(50)), return_exceptions=True
        ),
        20,
    )
    assert {type(result) for result in results} == {Unavailable}
    assert time.monotonic() - began < 15
    proxy.mend()

    async def works() -> bool:
        with contextlib.suppress(Unavailable):
            return await one(ledger) == 1
        return False

    await until_async(works)
    await asyncio.wait_for(ledger.insert(new_job()), 10)


async def test_what_listens_is_connected_again(ledger: Ledger, proxy: Proxy, postgres_url: str) -> None:
    heard: list[str] = []
    connected: list[float] = []
    listening = asyncio.create_task(ledger.database.listen(heard.append, lambda: connected.append(time.monotonic())))
    other = open_database(postgres_url)

    async def tell(word: str) -> None:
        statement = text(f"NOTIFY {NOTIFY_CHANNEL}, '{word}'")
        await other.transact(lambda connection: connection.execute(statement), durable=False)

    try:
        await until_async(lambda: len(connected) == 1)
        await tell("before")
        await until_async(lambda: heard == ["before"])
        await asyncio.sleep(0.5)
        assert len(connected) == 1, "a connection that works is kept"
        proxy.stall()
        await asyncio.sleep(0.05)
        await tell("meanwhile")
        proxy.mend()
        await until_async(lambda: len(connected) == 2)
        await tell("after")
        await until_async(lambda: heard == ["before", "after"])
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await other.close()
