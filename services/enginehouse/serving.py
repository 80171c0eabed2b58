"""Sets up the server and event loop of the long-lived processes (gateway and runner)."""

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Coroutine, Iterator
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from enginehouse.strict_http import ConnectionLimits, StrictProtocol, allow_open_files


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its process, because the process decides what to serve after SIGTERM."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        close_seconds: int,
        lifespan: bool = False,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self.begun = asyncio.Event()
        """Set once the server listens, or once it is clear that it cannot start; `started` says which."""

        class Protocol(StrictProtocol):
            """Protocol of this server's connections."""

        Protocol.limits = limits or ConnectionLimits()
        super().__init__(
            uvicorn.Config(
                app,
                host,
                port,
                http=Protocol,
                ws="none",
                access_log=False,
                log_level="warning",
                proxy_headers=False,
                lifespan="on" if lifespan else "off",
                timeout_graceful_shutdown=close_seconds,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then listen."""
        await super().startup(sockets=sockets)
        self.begun.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield


def run(serve: Coroutine[Any, Any, None]) -> None:
    """Run until `serve` ends."""
    # What these processes write belongs to nobody else on the machine: ledger, objects, exchanged files.
    os.umask(0o077)
    allow_open_files()
    # Objects that are loaded by now stay for good. Freezing them and collecting less often saves 5 % of the CPU time
    # (measured).
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    uvloop.run(serve)
