"""The migrations make exactly the tables that the code names, on both databases, and can be run again."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from tests.support.filled_ledger import fill
from tests.support.ledger import accepted, opened, row_of, sqlite_url

from enginehouse.contracts.errors import UnsafeSettings
from enginehouse.gateway.ledger import migrate, migrations
from enginehouse.gateway.ledger.indexes import metadata
from enginehouse.gateway.ledger.ledger import Ledger

_INDEX = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}


def _comparable(thing: Any, name: str | None, *_: Any) -> bool:
    return name != "ix_jobs_backlog"


def _differences(connection: Connection) -> list[Any]:
    # The migrations leave the lengths of texts in SQLite as they were, where they mean nothing.
    is_sqlite = connection.dialect.name == "sqlite"
    options = {"include_object": _comparable, "compare_type": not is_sqlite}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, metadata))


def _indexes(connection: Connection) -> dict[str, str]:
    made = connection.execute(text(_INDEX[connection.dialect.name]))
    return {name: " ".join(definition.split()) for name, definition in made}


async def test_the_migrations_make_what_the_code_names(ledger: Ledger) -> None:
    assert await ledger.read(_differences) == []


async def test_every_index_is_there_also_the_one_that_alembic_cannot_compare(ledger: Ledger) -> None:
    made = await ledger.read(_indexes)
    named = {index.name for table in metadata.tables.values() for index in table.indexes}
    assert named <= made.keys()
    definition = made["ix_jobs_backlog"].replace('"', "")
    for part in ("engine, tenant, priority DESC, id", "handed_over_at IS NULL"):
        assert part in definition
    assert "queued" in definition


async def test_opening_again_keeps_what_is_there(ledger_url: str) -> None:
    async with opened(ledger_url) as first:
        job_id = await accepted(first)
    async with opened(ledger_url) as second:
        assert (await row_of(second, job_id)).id == job_id


async def test_gateways_that_start_at_once_migrate_once(postgres_url: str) -> None:
    async with opened(postgres_url) as ledger:
        tables = ", ".join(f'"{name}"' for name in [*metadata.tables, "alembic_version"])
        await ledger.database.transact(
            lambda connection: connection.execute(text(f"DROP TABLE {tables}")), durable=False
        )
    ledgers = [Ledger(postgres_url) for _ in range(4)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    assert await ledgers[0].read(_differences) == []
    await asyncio.gather(*(ledger.close() for ledger in ledgers))


def test_the_newest_migration_by_the_files_names_is_the_one_that_alembic_ends_with() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert migrations.newest() == ScriptDirectory.from_config(config).get_current_head()


def _at_revision(path: Path, revision: str) -> None:
    """Take an up-to-date SQLite ledger back to an earlier release."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    engine.dispose()


async def test_a_migration_that_fails_halfway_leaves_nothing_behind_and_is_applied_by_the_next_start(
    tmp_path: Path,
) -> None:
    url = sqlite_url(tmp_path)
    path = tmp_path / "ledger.sqlite"
    _at_revision(path, "0005")
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE INDEX ix_engines_updated ON engines (state)")  # One of the last that 0006 makes.
        before = file.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    ledger = Ledger(url)
    with pytest.raises(UnsafeSettings, match="the lines above say why"):
        await ledger.open()
    await ledger.close()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == before
        file.execute("DROP INDEX ix_engines_updated")
    async with opened(url) as mended:
        assert await mended.read(_differences) == []


def _bytes_written(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def test_a_migration_that_is_killed_is_applied_by_the_next_start(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    path = tmp_path / "ledger.sqlite"
    asyncio.run(fill(url, 50_000, 5_000))
    _at_revision(path, "0005")
    variables = {**os.environ, "ENGINEHOUSE_GATEWAY_LEDGER_URL": url}
    migrating = subprocess.Popen([sys.executable, "-m", migrate.__name__], env=variables)
    while _bytes_written(migrating.pid) < 9 * 2**20:  # The first index is there by then.
        assert migrating.poll() is None, "it ended before it could be killed"
    migrating.kill()
    migrating.wait()
    migrate.upgrade(url)
    with closing(create_engine(url).connect()) as connection:
        assert _differences(connection) == []
        assert connection.execute(text("SELECT sum(waiting) FROM job_counts")).scalar() == 5_000
