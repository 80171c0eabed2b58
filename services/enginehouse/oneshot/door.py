"""The door of a pod that works on one job: it passes the first call on to the engine beside it, and no other.

What comes from the engine is passed on byte by byte as it comes, and judged by the runner, as that of any engine is. Questions
(GET) always pass: the runner asks for the engine's health and description by them. So does the word that a job is canceled.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable

from enginehouse.oneshot.request import HEAD_MAX_BYTES, Head, Malformed, read_head

_CHUNK_BYTES = 64 * 1024
_HEAD_SECONDS = 30.0
_REFUSED_SECONDS = 30.0
"""Longest time for the body of a call that is refused: who sends it reads the answer only then."""
_FAREWELL_SECONDS = 10.0
"""Longest wait for the caller to have read the answer."""
_CANCEL_SECONDS = 3.0
"""Longest wait for the word that the job is canceled, when its caller has gone. An engine may go on with it otherwise."""
_LEFT = "The caller closed the call, or has its answer"


class Door:
    """Takes calls for the engine on `engine_port` of this pod."""

    def __init__(self, engine_port: int, idle_seconds: float, *, linger_seconds: float = 5.0) -> None:
        """End `idle_seconds` after the start if no call comes.

        Then refuse calls for `linger_seconds` first: a connection that is closed unheard looks like an engine that died of its job.
        """
        self._engine_port = engine_port
        self._idle_seconds = idle_seconds
        self._linger_seconds = linger_seconds
        self._closed = asyncio.Event()
        """Set once no call is taken any more: there was one, or it is too late."""
        self._is_called = False
        self._over = asyncio.Event()
        self._canceled = asyncio.Event()
        self._said = "No call came in time"
        self._connections: set[asyncio.Task[None]] = set()

    async def stand(self, host: str, port: int) -> str:
        """Take connections on all addresses, or on `host`, until the one call is over. Return a sentence on how it ended."""
        server = await asyncio.start_server(self._take_connection, host or None, port, limit=HEAD_MAX_BYTES)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._idle_seconds):
                    await self._closed.wait()
            self._closed.set()
            if self._is_called:
                await self._over.wait()
            else:
                await asyncio.sleep(self._linger_seconds)
        finally:
            server.close()
            for question in self._connections:
                question.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
        return self._said

    def close(self) -> None:
        """Take no call any more; one that is under way goes on."""
        if not self._closed.is_set():
            self._said = "It was told to stop before a call came"
        self._closed.set()

    def _take_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken = asyncio.create_task(self._converse(reader, writer))
        self._connections.add(taken)
        taken.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (EOFError, OSError, TimeoutError):
            writer.transport.abort()  # Whoever called is gone.
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await read_head(reader)
        except Malformed as fault:
            await _refuse(writer, 400, f"The request cannot be passed on: {fault}")
            return
        if head.only_asks or head.cancels:
            await self._pass_on(head, reader, writer)
            if head.cancels:
                self._canceled.set()
        elif self._closed.is_set():
            async with asyncio.timeout(_REFUSED_SECONDS):
                await _discard(reader, head.length)
                await _refuse(writer, 503, "This pod works on one job in all, and has had it or is about to end")
        else:
            self._is_called = True
            self._closed.set()
            try:
                self._said = await self._pass_on(head, reader, writer)
                if self._said == _LEFT:
                    async with asyncio.timeout(_CANCEL_SECONDS):
                        await self._canceled.wait()
            finally:
                self._over.set()

    async def _pass_on(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Pass a request on, and its answer back. Return a sentence on how that ended."""
        try:
            engine, to_engine = await asyncio.open_connection("127.0.0.1", self._engine_port, limit=_CHUNK_BYTES)
        except OSError:
            await _discard(reader, head.length)
            await _refuse(writer, 503, f"Nothing listens on port {self._engine_port}, where the engine should")
            return "The call came, and the engine took no connection"
        sending = asyncio.create_task(_send(head, reader, to_engine))
        answering = asyncio.create_task(_pass_back(engine, writer))
        try:
            await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                return _LEFT
            if not answering.result():
                writer.transport.abort()  # A clean end would make the part that came look like the whole.
                return "The engine broke the connection off"
            await _until_read(writer, sending)
            return "The call is over"
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)
            to_engine.transport.abort()


async def _send(head: Head, reader: asyncio.StreamReader, to_engine: asyncio.StreamWriter) -> None:
    """Send a request to the engine, and return once the caller has closed the connection."""
    left, engine_reads = head.length, True
    to_engine.write(head.to_pass_on)
    # Whatever a caller sends after its call is none of the engine's business: it might be another job.
    with contextlib.suppress(OSError):
        while chunk := await reader.read(min(left or _CHUNK_BYTES, _CHUNK_BYTES)):
            if left and engine_reads:
                engine_reads = await _succeeds(_write(to_engine, chunk))
            left = max(0, left - len(chunk))


async def _pass_back(engine: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Pass an answer back as it comes, until the engine closes the connection. Return False if that broke off."""
    try:
        first = await engine.readuntil(b"\n")
        # The caller must ask for nothing more here, whatever the engine says of the connection.
        await _write(writer, first + b"Connection: close\r\n")
        while chunk := await engine.read(_CHUNK_BYTES):
            await _write(writer, chunk)
    except (EOFError, OSError, asyncio.LimitOverrunError):
        return False
    return True


async def _until_read(writer: asyncio.StreamWriter, caller_gone: asyncio.Task[None]) -> None:
    """End the answer, and wait until the caller has it: with this process the pod ends, and its network."""
    with contextlib.suppress(OSError):
        writer.write_eof()
        await asyncio.wait({caller_gone}, timeout=_FAREWELL_SECONDS)


async def _discard(reader: asyncio.StreamReader, length: int) -> None:
    while length and (chunk := await reader.read(min(length, _CHUNK_BYTES))):
        length -= len(chunk)


async def _refuse(writer: asyncio.StreamWriter, status: int, why: str) -> None:
    reason = {400: "Bad Request", 503: "Service Unavailable"}[status]
    body = json.dumps({"error": {"message": why}}).encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    await _write(writer, head.encode() + body)


async def _write(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(content)
    await writer.drain()


async def _succeeds(doing: Awaitable[None]) -> bool:
    try:
        await doing
    except OSError:
        return False
    return True
