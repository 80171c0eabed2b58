"""An engine that answers any bytes: also such as no HTTP server would send, several answers at once, or half of one."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tests.support.runner import TinyEngine

_HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_UNKNOWN = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class RawEngine(TinyEngine):
    """Answers each job with the bytes that the test returns for its input."""

    def __init__(self, respond: Callable[[Any], tuple[bytes, bool]]) -> None:
        """Take a function from an input to the bytes of the answer, and whether the connection then ends."""
        super().__init__()
        self._respond = respond
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not reader.at_eof():
                answer, ends = await self._next(reader)
                writer.write(answer)
                await writer.drain()
                if ends:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _next(self, reader: asyncio.StreamReader) -> tuple[bytes, bool]:
        """Read a request, and return the answer to it, and whether the connection then ends."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
        body = await reader.readexactly(length)
        path = head.split(" ", 2)[1]
        if path == "/predict":
            return self._respond(json.loads(body)["data"])
        return (_HEALTHY if path == "/healthz" else _UNKNOWN), False
