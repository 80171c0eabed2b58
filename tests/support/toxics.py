"""A small TCP proxy between two parts. A test can cut it and slow it down."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.dapr import PORTS
from tests.support.waiting import until_async

_CHUNK = 64 * 1024


@dataclass
class Proxy:
    """Listens on `port` and passes everything on to `host`:`target`, subject to the toxics in force."""

    target: int
    port: int
    host: str = "127.0.0.1"
    delay_seconds: float = 0
    """Delay of each piece, in both directions."""
    _cut: bool = False
    _stalled: bool = False
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _silent: set[asyncio.StreamWriter] = field(default_factory=set)
    """Writers to which nothing is passed on any more."""
    _loop: asyncio.AbstractEventLoop | None = None

    def cut(self) -> None:
        """Close every connection, and refuse new ones until `mend`."""
        self._cut = True
        assert self._loop
        asyncio.run_coroutine_threadsafe(self._close_all(), self._loop).result(10)

    def stall(self) -> None:
        """Swallow every byte in both directions, as if the other end had lost its power.

        Connections that are open now stay silent for ever, also after `mend`.
        """
        self._stalled = True
        self._silent |= self._open

    def mend(self) -> None:
        """Pass everything on at once again."""
        self._cut, self._stalled, self.delay_seconds = False, False, 0

    async def _close_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()
        await until_async(lambda: not self._open, "every connection is closed")

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        if self._cut:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection(self.host, self.target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, there_writer}
        if self._stalled:
            self._silent |= {writer, there_writer}
        try:
            await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))
        finally:
            for side in (writer, there_writer):
                self._open.discard(side)
                self._silent.discard(side)
                side.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if writer in self._silent:
                    continue
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.contextmanager
def proxy_to(target: int, host: str = "127.0.0.1", port: int | None = None) -> Iterator[Proxy]:
    """Run a proxy to a port, in its own thread, during the block. It listens on `port`, or on any free port."""
    proxy = Proxy(target, port or PORTS.take(), host)
    started, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        proxy._loop = asyncio.get_running_loop()
        async with await asyncio.start_server(proxy.handle, "127.0.0.1", proxy.port):
            started.set()
            await stop.wait()
            await proxy._close_all()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name=f"proxy to {target}")
    thread.start()
    try:
        assert started.wait(10)
        yield proxy
    finally:
        assert proxy._loop
        proxy._loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        PORTS.release(proxy.port)
