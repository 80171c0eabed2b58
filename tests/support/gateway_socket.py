"""A gateway's API on a real socket, for requests that no HTTP client would send."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.support.dapr import PORTS
from tests.support.gateway import GatewayWorld
from tests.support.waiting import until_async

from enginehouse.serving import Server


@contextlib.asynccontextmanager
async def listening(world: GatewayWorld) -> AsyncIterator[int]:
    """Serve a world's API during the block, as `python -m enginehouse.gateway` does. Give the block its port."""
    port = PORTS.take()
    server = Server(world.app, "127.0.0.1", port, close_seconds=5)
    with contextlib.ExitStack() as stack:
        stack.callback(PORTS.release, port)
        serving = asyncio.create_task(server.serve())
        await until_async(lambda: server.started)
        try:
            yield port
        finally:
            server.should_exit = True
            await serving


async def exchange(port: int, *parts: bytes, close: bool = False) -> bytes:
    """Send these bytes, and return the answer: a whole one, or what came before the server closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close:
            writer.close()
            return b""
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        return head + await asyncio.wait_for(reader.readexactly(length), 5)
    except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError) as error:
        return getattr(error, "partial", b"")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
