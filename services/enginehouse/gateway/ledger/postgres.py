"""Reaches a ledger in PostgreSQL, which several gateways share."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import asyncpg
import structlog
from sqlalchemy import Connection, ExceptionContext, event
from sqlalchemy.ext.asyncio import create_async_engine

from enginehouse.contracts.errors import Unavailable
from enginehouse.gateway.ledger.database import NOTIFY_CHANNEL, READERS, UNREACHABLE, Patience

log = structlog.get_logger()

T = TypeVar("T")

_RECONNECT_SECONDS = 0.5
_UNREACHABLE = (*UNREACHABLE, asyncpg.PostgresError, asyncpg.InterfaceError)
"""While connecting, asyncpg raises errors of its own."""


class PostgresDatabase:
    """Runs functions over a server that several gateways share."""

    dialect = "postgresql"
    unreachable = _UNREACHABLE

    def __init__(self, url: str, patience: Patience) -> None:
        self._patience = patience
        self._engine = create_async_engine(
            url,
            pool_size=READERS + 3,
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
