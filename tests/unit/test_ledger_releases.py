"""A gateway works with a ledger that a newer release has migrated, as long as that has only added things."""

import uuid
from pathlib import Path

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import make_url
from tests.support.ledger import accepted, mirror, opened, row_of, sqlite_url
from tests.support.postgres import PostgresServer

from enginehouse.contracts.errors import UnsafeSettings
from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger import migrations, read
from enginehouse.gateway.ledger.database import open_database
from enginehouse.gateway.ledger.ledger import Ledger


@pytest.fixture(params=["sqlite", "postgresql"])
async def new_ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database of the test's own, because it changes tables."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"release_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return make_url(server.url).set(database=name).render_as_string(hide_password=False)


_NEWER_RELEASE = (
    "ALTER TABLE jobs ADD COLUMN colour VARCHAR(10)",
    "ALTER TABLE engines ADD COLUMN size INTEGER NOT NULL DEFAULT 7",
    "CREATE TABLE rooms (id VARCHAR(10) PRIMARY KEY)",
    "CREATE INDEX ix_jobs_colour ON jobs (colour)",
    "UPDATE alembic_version SET version_num = '9999'",
)
"""What a later release may do to the tables under gateways of this one: it only adds."""


async def _change(url: str, *statements: str) -> None:
    database = open_database(url)
    changes = [text(statement) for statement in statements]
    await database.transact(lambda connection: [connection.execute(change) for change in changes], durable=False)
    await database.close()


async def test_a_gateway_goes_on_and_starts_anew_where_a_newer_release_has_only_added_things(
    new_ledger_url: str,
) -> None:
    async with opened(new_ledger_url) as older:
        assert await older.read(migrations.are_missing) is False
        jobs = [await accepted(older) for _ in range(3)]
        await older.save_engine("acme--echo", None)
        for _ in range(8):
            await older.read(read.known_engines)
        await _change(new_ledger_url, *_NEWER_RELEASE)
        jobs += [await accepted(older) for _ in range(3)]
        for _ in range(8):  # Every connection of its pool has statements that were prepared before.
            assert (await row_of(older, jobs[0])).id == jobs[0]
            assert [engine.id for engine in await older.read(read.known_engines)] == ["acme--echo"]
        await mirror(older, jobs[0], Status.SUCCEEDED, output=1)
    async with opened(new_ledger_url) as older:
        assert {(await row_of(older, job_id)).status for job_id in jobs} == {Status.QUEUED, Status.SUCCEEDED}
        jobs.append(await accepted(older))
        await older.save_engine("acme--other", None)
        assert len(await older.read(read.known_engines)) == 2


async def test_a_ledger_that_a_newer_release_has_changed_in_a_way_that_breaks_this_one_is_refused(
    new_ledger_url: str,
) -> None:
    async with opened(new_ledger_url):
        pass
    for oldest in ("'9998'", "NULL"):
        await _change(new_ledger_url, f"UPDATE alembic_version SET version_num = '9999', oldest = {oldest}")
        ledger = Ledger(new_ledger_url)
        with pytest.raises(UnsafeSettings, match=r"newer release .* \(migration 9999\)"):
            await ledger.open()
        await ledger.close()


async def test_the_ledger_says_which_migration_a_gateway_must_know(new_ledger_url: str) -> None:
    async with opened(new_ledger_url) as ledger:
        noted = text("SELECT version_num, oldest FROM alembic_version")
        row = await ledger.read(lambda connection: connection.execute(noted).one())
    assert row == (migrations.newest(), "0007")


def test_each_migration_says_whether_it_breaks_older_releases() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    for script in ScriptDirectory.from_config(config).walk_revisions():
        if script.revision > "0007":
            assert isinstance(script.module.breaks_older, bool), script.revision
