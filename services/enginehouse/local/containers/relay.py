"""Carry connections to one engine and back: `python relay.py ADDRESS PORT`. It runs in a container of ours.

An engine's network has no way to the host or from it. This container is on it and on another one, whose port the host sees.
"""

import asyncio
import contextlib
import sys

_PORT = 8000
_CHUNK = 65_536


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the sender has sent its last, and pass that on."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def relay(address: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect one caller with the engine. If either breaks off, so does the other."""
    with contextlib.suppress(OSError):
        try:
            from_engine, to_engine = await asyncio.open_connection(address, port)
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
