"""Brings a ledger's tables up to date, in a process of its own.

Alembic takes a tenth of a gateway's memory and is needed once in a release. So the gateway starts
`python -m enginehouse.gateway.ledger.migrate` where the tables are not up to date, and never loads it itself.
"""

import asyncio
import os
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from enginehouse.gateway.ledger.database import Patience, open_database

_LOCK = 7_210_001
_PATIENT = Patience(command_seconds=3_600.0)
"""A migration may have to rewrite a large table, or wait for another gateway that does."""


def upgrade(url: str) -> None:
    """Apply the migrations that are missing at `url`. Gateways that start at the same time apply them once."""
    if make_url(url).get_backend_name() == "sqlite":
        # The driver begins a transaction by itself, but only before the first row is written: tables and indexes that were
        # made before would stay when a migration is killed or the disk is full, and keep the next start from going on.
        own = {"isolation_level": None, "timeout": _PATIENT.command_seconds}
        engine = create_engine(make_url(url).set(drivername="sqlite"), poolclass=NullPool, connect_args=own)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        with engine.begin() as connection:
            _apply(connection)
    else:
        asyncio.run(_upgrade_postgres(url))


async def _upgrade_postgres(url: str) -> None:
    database = open_database(url, _PATIENT)
    await database.transact(_apply_locked, durable=True)
    await database.close()


def _apply_locked(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    _apply(connection)


def _apply(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.execute(text("UPDATE alembic_version SET oldest = :oldest"), {"oldest": _oldest(config)})


def _oldest(config: Config) -> str:
    """Return the migration that a gateway must know to work with the ledger: the last that breaks those of before."""
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    return max(script.revision for script in scripts if getattr(script.module, "breaks_older", True))


if __name__ == "__main__":
    upgrade(os.environ["ENGINEHOUSE_GATEWAY_LEDGER_URL"])
