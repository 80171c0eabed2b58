"""Reaches the ledger's database, SQLite or PostgreSQL: one writer, and readers beside it.

Both databases run the same plain functions over a SQLAlchemy connection: SQLite in threads (one hop for a whole group
of writes), PostgreSQL through asyncpg.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import asyncpg
import structlog
from sqlalchemy import Connection, ExceptionContext, create_engine, event
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, QueuePool

from enginehouse.contracts.errors import Unavailable
from enginehouse.sidecar.gather import Gather

log = structlog.get_logger()

T = TypeVar("T")
Write = Callable[[Connection, list[Any]], Sequence[Any]]
"""Writes all items of one kind in a group; returns a result, or an exception to raise, for each of them."""


_READERS = 4
_GROUP_MAX = 256
_CLOSE_SECONDS = 60.0
"""Time to commit the writes that have arrived when the ledger is closed."""
_RECONNECT_SECONDS = 0.5
NOTIFY_CHANNEL = "job_ended"
_UNREACHABLE = (DBAPIError, PoolTimeout, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""Errors of a database that stops, starts or cannot be reached. While connecting, asyncpg raises errors of its own."""


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


@dataclass(frozen=True, slots=True)
class _Write:
    """An item that waits to be committed, with the function that writes it."""

    write: Write
    item: Any
    durable: bool


class Database(Protocol):
    """Runs functions over a connection."""

    dialect: str

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

    def __init__(self, url: str) -> None:
        self._writer_thread = ThreadPoolExecutor(1, "ledger-writer")
        self._reader_threads = ThreadPoolExecutor(_READERS, "ledger-reader")
        self._writer = self._engine(url, 1)
        self._readers = self._engine(url, _READERS)
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
            connection.execute("PRAGMA cache_size=-65536")
            connection.execute("PRAGMA wal_autocheckpoint=4000")

        return engine

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` in a reader thread."""

        def run() -> T:
            with self._readers.connect() as connection:
                return query(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader_threads, run)
        except _UNREACHABLE as error:
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


class PostgresDatabase:
    """Runs functions over a server that several gateways share."""

    dialect = "postgresql"

    def __init__(self, url: str, patience: Patience) -> None:
        self._patience = patience
        self._engine = create_async_engine(
            url,
            pool_size=_READERS + 3,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={"timeout": patience.connect_seconds, "command_timeout": patience.command_seconds},
        )

        @event.listens_for(self._engine.sync_engine, "handle_error")
        def _give_up(context: ExceptionContext) -> None:
            # A rollback would wait for the same silent server. A "disconnect" replaces all pooled connections.
            if isinstance(context.original_exception, TimeoutError):
                context.is_disconnect = True

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on a pooled connection."""
        try:
            async with self._engine.connect() as connection:
                return await connection.run_sync(query)
        except _UNREACHABLE as error:
            raise Unavailable(f"ledger: {type(error).__name__}") from error

    async def transact(self, work: Callable[[Connection], T], *, durable: bool) -> T:
        """Run `work` in a transaction."""
        async with self._engine.begin() as connection:
            if not durable:
                await connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            return await connection.run_sync(work)

    async def listen(self, heard: Callable[[str], None], reconnected: Callable[[], None]) -> None:
        """Hold a listening connection, and replace it whenever it breaks."""
        while True:
            try:
                async with self._engine.connect() as connection:
                    driver: Any = (await connection.get_raw_connection()).driver_connection
                    broken = asyncio.Event()
                    driver.add_termination_listener(lambda _, broken=broken: broken.set())
                    await driver.add_listener(NOTIFY_CHANNEL, lambda _c, _pid, _channel, payload: heard(payload))
                    reconnected()
                    await self._until_broken(driver, broken)
            except _UNREACHABLE:
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _until_broken(self, driver: Any, broken: asyncio.Event) -> None:
        while not broken.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience.probe_seconds):
                    await broken.wait()
                return
            try:
                await driver.fetchval("SELECT 1", timeout=self._patience.connect_seconds)
            except _UNREACHABLE as error:
                log.warning(
                    f"The connection on which other gateways notify this one is lost: {type(error).__name__}",
                    action="listener_lost",
                )
                driver.terminate()
                raise

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


def open_database(url: str, patience: Patience = PATIENT) -> Database:
    """Return the database at `url`; a driver named in it is replaced by the one used here."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteDatabase(parsed.set(drivername="sqlite").render_as_string(hide_password=False))
    return PostgresDatabase(parsed.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False), patience)


def migration_engine(url: str) -> Engine:
    """Return a short-lived synchronous SQLite engine for Alembic."""
    return create_engine(make_url(url).set(drivername="sqlite"), poolclass=NullPool)


class GroupWriter:
    """Commits writes in groups: writes that arrive during one transaction share the next one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gather: Gather[None, _Write, Any] = Gather(self._commit_or_divide, at_most=_GROUP_MAX)

    async def write(self, write: Write, item: Any, *, durable: bool = False) -> Any:
        """Run `write` for `item`, together with other items of its kind; return the result after the commit."""
        return await self._gather.do(None, _Write(write, item, durable))

    async def close(self) -> None:
        """Commit the writes that have arrived."""
        await self._gather.close(finish_seconds=_CLOSE_SECONDS)

    async def _commit_or_divide(self, _: None, group: Sequence[_Write]) -> list[Any]:
        try:
            return await self._commit(group)
        except Exception as error:
            return await self._one_by_one(group, error)

    async def _commit(self, group: Sequence[_Write]) -> list[Any]:
        kinds: dict[Write, list[int]] = {}
        for index, item in enumerate(group):
            kinds.setdefault(item.write, []).append(index)

        def work(connection: Connection) -> list[Any]:
            results: list[Any] = [None] * len(group)
            for write, indexes in kinds.items():
                for index, result in zip(
                    indexes, write(connection, [group[index].item for index in indexes]), strict=True
                ):
                    results[index] = result
            return results

        return await self._database.transact(work, durable=any(item.durable for item in group))

    async def _one_by_one(self, group: Sequence[_Write], error: Exception) -> list[Any]:
        """Commit the writes of a failed group one by one, so that a bad write fails alone."""
        if _is_silent(error) or (len(group) == 1 and not isinstance(error, IntegrityError)):
            return [_as_unavailable(error) for _ in group]
        outcomes: list[Any] = []
        # If another gateway took an idempotency key at the same moment, the second try finds it.
        for item in group:
            try:
                outcomes += await self._commit([item])
            except Exception as own_error:
                outcomes.append(_as_unavailable(own_error))
                if _is_silent(own_error):
                    # The writes before this one are committed, and their callers wait for the end of the group.
                    return outcomes + [_as_unavailable(own_error) for _ in group[len(outcomes) :]]
        return outcomes


def _is_silent(error: Exception) -> bool:
    """Say whether the server does not answer. Then each further write would wait for it once more."""
    return isinstance(error, TimeoutError | PoolTimeout)


def _as_unavailable(error: Exception) -> Exception:
    if isinstance(error, _UNREACHABLE):
        unavailable = Unavailable(f"ledger: {type(error).__name__}")
        unavailable.__cause__ = error
        return unavailable
    return error
