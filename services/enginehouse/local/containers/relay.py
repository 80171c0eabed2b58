"""Carry connections to one engine and back: `python relay.py ADDRESS PORT`. It runs in a container of ours.

An engine's network has no way to the host or from it. This container is on it and on another one, whose port the host sees.
"""

import asyncio
import contextlib
import socket
import sys

_PORT = 8000
_CHUNK = 65_536
_AWAY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
"""Answer in place of an engine that is not there. A closed connection would look as if it had died of the request."""
_LEAVE_SECONDS = 5.0


def _notice_death(connection: socket.socket) -> None:
    """Have a connection break off when nobody is at its other end: a sandbox with a network of its own dies without a word.

    Until another one has its address, nobody refuses what is sent there.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 10)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the sender has sent its last, and pass that on."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Tell one caller that the engine is not there, and take in what it sends until it has read that."""
    writer.write(_AWAY)
    writer.write_eof()
    async with asyncio.timeout(_LEAVE_SECONDS):
        while await reader.read(_CHUNK):
            pass


async def relay(address: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect one caller with the engine. If either breaks off, so does the other."""
    with contextlib.suppress(OSError):
        try:
            try:
                from_engine, to_engine = await asyncio.open_connection(address, port)
            except OSError:
                await refuse(reader, writer)
                return
            _notice_death(to_engine.get_extra_info("socket"))
            try:
                await asyncio.gather(carry(reader, to_engine), carry(from_engine, writer))
            finally:
                to_engine.transport.abort()
        finally:
            writer.transport.abort()


async def main() -> None:
    """Relay until the process is ended."""
    address, port = sys.argv[1], int(sys.argv[2])
    server = await asyncio.start_server(lambda reader, writer: relay(address, port, reader, writer), "0.0.0.0", _PORT)  # noqa: S104
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
