"""Reaches a ledger in PostgreSQL, which several gateways share."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import asyncpg
import structlog
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import PoolResetState
from sqlalchemy.util import await_only, greenlet_spawn

from enginehouse.contracts.errors import Unavailable
from enginehouse.gateway.ledger.database import NOTIFIER_MARK, NOTIFY_CHANNEL, READERS, UNREACHABLE, Patience

log = structlog.get_logger()

T = TypeVar("T")

_RECONNECT_SECONDS = 0.5
_IDLE_IN_TRANSACTION = "10s"
_RESTED_SECONDS = 1.0
"""A connection that was in use so recently is taken to work still. One that has rested for longer is asked first."""
_UNREACHABLE = (*UNREACHABLE, asyncpg.PostgresError, asyncpg.InterfaceError)
"""While connecting, asyncpg raises errors of its own."""


class PostgresDatabase:
    """Runs functions over a server that several gateways share."""

    dialect = "postgresql"
    unreachable = _UNREACHABLE

    def __init__(self, url: str, patience: Patience) -> None:
        self._patience = patience
        self._name = uuid.uuid4().hex
        """Tells this gateway's notifications from those of others: it needs none of its own."""
        self._missed: Callable[[], None] = lambda: None
        """Called when somebody here may wait for what was committed, although nobody will say so."""
        self._durable = self._connections(url, 1)
        """For transactions that wait for the disk. One group of writes is committed at a time."""
        self._others = self._connections(url, READERS + 2, synchronous_commit="off")

    def _connections(self, url: str, most: int, **settings: str) -> Engine:
        engine = create_engine(
            url,
            # Each message to the server costs as much as the work it asks for. So transactions are begun by `transact`,
            # not by the driver: a read needs none, and is one message.
            isolation_level="AUTOCOMMIT",
            execution_options={"notifier": self._name},
            pool_size=most,
            max_overflow=0,
            pool_use_lifo=True,
            connect_args={
                "timeout": self._patience.connect_seconds,
                "command_timeout": self._patience.command_seconds,
                # A gateway whose machine is gone holds no window for longer: its session would live for hours.
                "server_settings": {"idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION, **settings},
            },
        )

        @event.listens_for(engine, "handle_error")
        def _give_up(context: ExceptionContext) -> None:
            # A rollback would wait for the same silent server. A "disconnect" replaces all pooled connections.
            if isinstance(context.original_exception, TimeoutError):
                context.is_disconnect = True

        @event.listens_for(engine, "reset")
        def _roll_back(connection: Any, _: Any, state: PoolResetState) -> None:
            driver = connection.driver_connection
            if not state.terminate_only and not driver.is_closed() and driver.is_in_transaction():
                await_only(driver.execute("ROLLBACK"))

        @event.listens_for(engine, "checkin")
        def _rest(_: Any, record: Any) -> None:
            record.info["rests_since"] = time.monotonic()

        @event.listens_for(engine, "checkout")
        def _check(connection: Any, record: Any, _: Any) -> None:
            rested = time.monotonic() - record.info.get("rests_since", time.monotonic())
            try:
                if rested > _RESTED_SECONDS:
                    engine.dialect.do_ping(connection)
            except (engine.dialect.loaded_dbapi.Error, OSError) as error:
                raise InvalidatePoolError from error
            if connection.driver_connection.is_closed():
                raise InvalidatePoolError

        return engine

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on a pooled connection."""

        def run() -> T:
            with self._others.connect() as connection:
                return query(connection)

        try:
            return await greenlet_spawn(run)
        except _UNREACHABLE as error:
            raise Unavailable(f"ledger: {type(error).__name__}") from error

    async def transact(self, work: Callable[[Connection], T], *, durable: bool) -> T:
        """Run `work` in a transaction."""

        def run() -> T:
            with (self._durable if durable else self._others).connect() as connection:
                connection.exec_driver_sql("BEGIN")
                result = work(connection)
                try:
                    connection.exec_driver_sql("COMMIT")
                except BaseException:
                    # It may be done. This gateway ignores its own notifications, so whoever waits must look.
                    self._missed()
                    raise
                return result

        return await greenlet_spawn(run)

    async def listen(self, heard: Callable[[str], None], reconnected: Callable[[], None]) -> None:
        """Hold a listening connection, and replace it whenever it breaks."""

        def note(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            ids, _, notifier = payload.partition(NOTIFIER_MARK)
            if notifier != self._name:
                heard(ids)

        self._missed = reconnected
        while True:
            try:
                connection = await greenlet_spawn(self._others.raw_connection)
                try:
                    driver: Any = connection.driver_connection
                    broken = asyncio.Event()
                    driver.add_termination_listener(lambda _, broken=broken: broken.set())
                    await driver.add_listener(NOTIFY_CHANNEL, note)
                    reconnected()
                    await self._until_broken(driver, broken)
                finally:
                    # It listens: nobody else may get it.
                    await greenlet_spawn(connection.invalidate)
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
        await greenlet_spawn(self._durable.dispose)
        await greenlet_spawn(self._others.dispose)
