"""Databases and a clock for tests of the ledger and the gateway. PostgreSQL starts when the first test needs it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.gateway import Clock, GatewayWorld, gateway_world
from tests.support.ledger import empty_postgres, opened, sqlite_url
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.runner import World, runner_world
from tests.support.steps import Leaps

from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.runner.blame import Blame


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> str:
    """Return the URL of a PostgreSQL ledger without rows."""
    await empty_postgres(postgres.url)
    return postgres.url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a ledger without rows, on each of the databases in turn."""
    return sqlite_url(tmp_path) if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    async with opened(ledger_url) as made:
        yield made


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands at the present until the test puts it forward."""
    return Clock()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    """Run a gateway at the usual pace. Tests that need another one replace this fixture in their module."""
    async with gateway_world(tmp_path) as made:
        yield made


@pytest.fixture
def leaps(monkeypatch: pytest.MonkeyPatch) -> Leaps:
    """Let the test leap over the time that blame knows."""
    return Leaps(monkeypatch)


@pytest.fixture
async def shared(tmp_path: Path, leaps: Leaps) -> AsyncIterator[World]:
    """Run a runner with two places that treats its engine as one of many tenants. Holds end when the test leaps over them."""
    async with runner_world(tmp_path, concurrency=2) as made:
        made.runner.pool.tenants.blame = Blame()
        yield made
