"""Reaches the ledger's database, SQLite or PostgreSQL: one writer, and readers beside it.

Both databases run the same plain functions over a SQLAlchemy connection: SQLite in threads (one hop for a whole group
of writes), PostgreSQL through asyncpg (`postgres.py`, which a gateway over SQLite does not load).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from enginehouse.contracts.errors import Unavailable

T = TypeVar("T")

READERS = 4
_CACHE_KIB = 8 * 1024
"""Pages that each connection keeps. The others are in the system's cache, for all connections: with eight times as much,
no listing, read or write over half a million rows took less processor time."""
NOTIFY_CHANNEL = "job_ended"
NOTIFIER_MARK = "@"
"""Stands in a notification after the jobs' ids and before the name of the gateway that sends it."""
UNREACHABLE: tuple[type[Exception], ...] = (DBAPIError, PoolTimeout, OSError)
"""Errors of a database that stops, starts or cannot be reached."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Time limits for a PostgreSQL server that does not answer."""

    connect_seconds: float = 5.0
    """To open a connection, or to answer a check."""
    command_seconds: float = 30.0
    """For one statement, because a connection whose other end vanished never answers."""
    probe_seconds: float = 10.0
    """Between two checks of the listening connection, on which nothing else is sent."""


PATIENT = Patience()


class Database(Protocol):
    """Runs functions over a connection."""

    dialect: str
    unreachable: tuple[type[Exception], ...]
    """Errors that say that the database stops, starts or cannot be reached."""

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` beside the writer."""

    async def transact(self, work: Callable[[Connection], T], *, durable: bool) -> T:
        """Run `work` in one transaction. It survives a crash of the process and, if `durable`, a power cut."""

    async def listen(self, heard: Callable[[str], None], reconnected: Callable[[], None]) -> None:
        """Pass on other gateways' notifications, for ever; call `reconnected` when some may have been missed."""

    async def close(self) -> None:
        """Close all connections."""


class SqliteDatabase:
    """Runs functions over an embedded file, for one gateway."""

    dialect = "sqlite"
    unreachable = UNREACHABLE

    def __init__(self, url: str) -> None:
        self._writer_thread = ThreadPoolExecutor(1, "ledger-writer")
        self._reader_threads = ThreadPoolExecutor(READERS, "ledger-reader")
        self._writer = self._engine(url, 1)
        self._readers = self._engine(url, READERS)
        self._connection: Connection | None = None
        """The writer thread's own connection, kept open."""
        self._synchronous = ""

    @staticmethod
    def _engine(url: str, connections: int) -> Engine:
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            # Transactions are begun by `transact`, not by the driver, so that reads do not open any.
            connect_args={"check_same_thread": False, "isolation_level": None, "timeout": 10},
        )

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA busy_timeout=10000")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            connection.execute("PRAGMA wal_autocheckpoint=4000")

        return engine

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` in a reader thread."""

        def run() -> T:
            with self._readers.connect() as connection:
                return query(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader_threads, run)
        except UNREACHABLE as error:
            raise Unavailable(f"ledger: {type(error).__name__}") from error

    async def transact(self, work: Callable[[Connection], T], *, durable: bool) -> T:
        """Run `work` in the writer thread. Only `durable` work waits for the disk."""
        synchronous = "FULL" if durable else "NORMAL"

        def run() -> T:
            connection = self._connection = self._connection or self._writer.connect()
            try:
                if synchronous != self._synchronous:
                    connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
                    self._synchronous = synchronous
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                result = work(connection)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                # The pool rolls back. The next group gets a new connection, in case this one is broken.
                self._connection, self._synchronous = None, ""
                connection.close()
                raise
            return result

        return await asyncio.get_running_loop().run_in_executor(self._writer_thread, run)

    async def listen(self, heard: Callable[[str], None], reconnected: Callable[[], None]) -> None:
        """Return at once: an embedded ledger has one gateway, so no other gateway can notify it."""

    async def close(self) -> None:
        """Close the file."""
        self._writer_thread.shutdown()
        if self._connection:
            self._connection.close()
        self._reader_threads.shutdown()
        self._writer.dispose()
        self._readers.dispose()


def open_database(url: str, patience: Patience = PATIENT) -> Database:
    """Return the database at `url`; a driver named in it is replaced by the one used here."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteDatabase(parsed.set(drivername="sqlite").render_as_string(hide_password=False))
    from enginehouse.gateway.ledger.postgres import PostgresDatabase

    return PostgresDatabase(parsed.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False), patience)


def as_unavailable(error: Exception, database: Database) -> Exception:
    """Return Unavailable for an error of a database that is out of reach; any other error as it is."""
    if isinstance(error, database.unreachable):
        unavailable = Unavailable(f"ledger: {type(error).__name__}")
        unavailable.__cause__ = error
        return unavailable
    return error
