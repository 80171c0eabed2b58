"""Connections are bounded in time and number, and what a request is has one reading only. Raw bytes, our own server."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.break_ins import attempt
from tests.support.dapr import PORTS
from tests.support.waiting import until_async

from enginehouse.serving import Server
from enginehouse.strict_http import ConnectionLimits

LARGE = b"x" * 8_000_000
QUICK = ConnectionLimits(head_seconds=0.4, body_seconds=0.4, body_bytes=64, write_seconds=0.4, connections=8)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, then answer what came: headers, size. Or be slow, or large, as the path says."""
    size, more = 0, True
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    body = LARGE if scope["path"] == "/large" else json.dumps({"headers": headers, "size": size}).encode()
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def served(limits: ConnectionLimits = QUICK) -> AsyncIterator[tuple[Server, int]]:
    port = PORTS.take()
    server = Server(app, "127.0.0.1", port, close_seconds=1, limits=limits)
    serving = asyncio.create_task(server.serve())
    await server.begun.wait()
    try:
        yield server, port
    finally:
        server.should_exit = True
        await serving
        PORTS.release(port)


class Peer:
    """A client of raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, Any]:
        """Return the status and the body of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await self.reader.readexactly(length)
        return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else body

    async def rest(self) -> bytes:
        """Return what comes until the server closes the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(), 20)
        except ConnectionResetError:
            return b""


@contextlib.asynccontextmanager
async def peer(port: int) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@attempt("begins requests and never ends them", layer="a clock for every head")
@pytest.mark.parametrize("begun", [b"", b"GET", GET, b"\r\n\r\n", GET + b"X: " + b"y" * 5_000])
async def test_a_head_that_does_not_come_ends_the_connection(begun: bytes) -> None:
    async with served() as (server, port), peer(port) as client:
        await client.send(begun)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        await until_async(lambda: not server.server_state.connections)


@pytest.mark.parametrize("begun", [b"GET", b"\r\n"])
async def test_the_head_of_a_later_request_has_the_same_time(begun: bytes) -> None:
    async with served() as (server, port), peer(port) as client:
        await client.send(GET + b"\r\n")
        assert (await client.answer())[0] == 200
        await client.send(begun)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        await until_async(lambda: not server.server_state.connections)


@attempt("sends a head byte by byte", layer="a clock for every head")
async def test_a_trickled_head_has_the_same_time() -> None:
    async with served() as (_, port), peer(port) as client:
        await client.send(GET)
        waiting = asyncio.create_task(client.rest())
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while not waiting.done():
                await client.send(b"X-A: 1\r\n")
                await asyncio.sleep(0.05)
        assert b" 200 " not in await waiting


@attempt("sends a body that stands still or trickles", layer="a least pace of bodies")
@pytest.mark.parametrize("trickle", [b"", b"x"])
@pytest.mark.parametrize(
    "declared", [b"Content-Length: 500000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n7a120\r\n"]
)
async def test_a_body_that_stands_still_or_trickles_ends_the_connection(declared: bytes, trickle: bytes) -> None:
    async with served() as (server, port), peer(port) as client:
        await client.send(POST + declared)
        waiting = asyncio.create_task(client.rest())
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while not waiting.done():
                await client.send(trickle)
                await asyncio.sleep(0.05)
        assert await waiting == b""
        await until_async(lambda: not server.server_state.connections)


async def test_a_slow_body_that_goes_on_is_read_to_its_end() -> None:
    async with served() as (_, port), peer(port) as client:
        await client.send(POST + b"Content-Length: 2000\r\n\r\n")
        for _ in range(20):
            await client.send(b"x" * 100)
            await asyncio.sleep(0.06)
        status, said = await client.answer()
        assert (status, said["size"]) == (200, 2_000)


async def test_a_slow_answer_and_a_body_that_nobody_reads_yet_are_not_the_callers_silence() -> None:
    async with served() as (_, port), peer(port) as client:
        await client.send(b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
        status, said = await client.answer()
        assert (status, said["size"]) == (200, 200_000)


@attempt("never reads its answer", layer="a clock for every answer")
async def test_a_reader_that_stands_still_loses_its_connection() -> None:
    async with served() as (server, port), peer(port) as client:
        await client.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        await until_async(lambda: server.server_state.connections)
        await until_async(lambda: not server.server_state.connections, timeout_seconds=5)
        assert len(await client.rest()) < len(LARGE)


@attempt("opens connections until none is left", layer="idle ones make room")
async def test_connections_without_a_request_make_room_for_others() -> None:
    async with served(ConnectionLimits(connections=8)) as (server, port), contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            stranger = await stack.enter_async_context(peer(port))
            await stranger.send(b"GET / HT")
        await until_async(lambda: len(server.server_state.connections) == 8)
        client = await stack.enter_async_context(peer(port))
        await client.send(GET + b"\r\n")
        assert (await client.answer())[0] == 200
        assert len(server.server_state.connections) <= 8


async def test_requests_in_hand_are_not_displaced() -> None:
    async with served(ConnectionLimits(connections=2)) as (server, port), contextlib.AsyncExitStack() as stack:
        working = [await stack.enter_async_context(peer(port)) for _ in range(2)]
        for client in working:
            await client.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        await until_async(lambda: len(server.server_state.tasks) == 2)
        stranger = await stack.enter_async_context(peer(port))
        assert await stranger.rest() == b""
        for client in working:
            assert (await client.answer())[0] == 200


@attempt("sends headers as trailers", layer="trailers are no headers")
async def test_trailers_do_not_become_headers() -> None:
    async with served() as (_, port), peer(port) as client:
        head = POST + b"Transfer-Encoding: chunked\r\nTrailer: Authorization\r\nConnection: close\r\n\r\n"
        await client.send(head)
        await client.send(b"3\r\nabc\r\n0\r\nAuthorization: Bearer stolen\r\nX-Late: 1\r\n\r\n")
        status, said = await client.answer()
        assert (status, said["size"]) == (200, 3)
        assert set(said["headers"]) == {"host", "transfer-encoding", "trailer", "connection"}


@attempt("sends bodies whose end a proxy would see elsewhere", layer="contradictions are refused")
@pytest.mark.parametrize(
    "head",
    [
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\nContent-Length: 3\r\n",
        b"Content-Length: +3\r\n",
    ],
)
async def test_a_body_whose_end_others_could_see_elsewhere_is_refused(head: bytes) -> None:
    async with served() as (server, port), peer(port) as client:
        await client.send(POST + head + b"\r\n3\r\nabc\r\n0\r\n\r\n")
        said = await client.rest()
        assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), said
        assert said.count(b"HTTP/1.1") == 1
        assert server.server_state.total_requests == 0


async def test_http_1_0_has_no_transfer_coding() -> None:
    async with served() as (_, port), peer(port) as client:
        await client.send(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


async def test_an_upgrade_is_answered_as_an_ordinary_request() -> None:
    async with served() as (_, port), peer(port) as client:
        await client.send(GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await client.answer())[0] == 200


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with served() as (_, port), peer(port) as client:
        await client.send(b"".join(POST + b"Content-Length: %d\r\n\r\n%s" % (n, b"x" * n) for n in (3, 0, 5)))
        assert [(await client.answer())[1]["size"] for _ in range(3)] == [3, 0, 5]
