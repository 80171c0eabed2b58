"""Calls raise Unavailable and no other error, whatever answers at the sidecar's port, and also if nothing answers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from tests.support.runner import PORTS

from enginehouse.contracts.errors import Unavailable
from enginehouse.sidecar.dapr import DaprSidecar

Call = Callable[[DaprSidecar], Awaitable[Any]]

READING: dict[str, Call] = {
    "read": lambda sidecar: sidecar.read("store", "a"),
    "read_many": lambda sidecar: sidecar.read_many("store", ["a", "b"]),
    "metadata": lambda sidecar: sidecar.metadata(),
}
WRITING: dict[str, Call] = {
    "publish": lambda sidecar: sidecar.publish("pubsub", "topic", b"{}"),
    "publish_many": lambda sidecar: sidecar.publish_many("pubsub", "topic", [b"{}", b"{}"]),
    "create": lambda sidecar: sidecar.create("store", "a", b"1", 10),
    "replace": lambda sidecar: sidecar.replace("store", "a", b"1", "1", 10),
    "put": lambda sidecar: sidecar.put("store", "a", b"1"),
    "delete": lambda sidecar: sidecar.delete("store", "a"),
}
NONSENSE = [
    b"",
    b"<html>Welcome</html>",
    b"{",
    b"\xff\xfe",
    b"null",
    b"7",
    b"{}",
    b'"text"',
    b"[7]",
    b'{"message": "hello"}',
    b'[{"etag": "1"}]',
    b'[{"etag": "1", "key": "a"}]',
    b'[{"etag": 1, "key": "a", "data": "x"}]',
    b'[{"etag": "1", "key": ["a"], "data": "x"}]',
    b'{"id": null}',
    b'{"id": "app", "components": 7}',
    b'{"id": "app", "components": [{}]}',
    b'{"id": "app", "subscriptions": [{"topic": ["a"]}]}',
]


class Stranger:
    """A server that gives one answer to everything, except that its first metadata answer is a real sidecar's."""

    def __init__(self) -> None:
        self.port = PORTS.take()
        self.status = 200
        self.body: bytes | None = b'{"id": "app"}'

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.body is None:
            assert request.transport is not None
            request.transport.write(b"HTTP/9 what\r\n\r\n")
            request.transport.close()
        return web.Response(status=self.status, body=self.body)


@pytest.fixture
async def stranger() -> AsyncIterator[Stranger]:
    made = Stranger()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", made.port).start()
    yield made
    await runner.cleanup()
    PORTS.release(made.port)


@pytest.fixture
async def sidecar(stranger: Stranger) -> AsyncIterator[DaprSidecar]:
    made = DaprSidecar(stranger.port, "token")
    await made.start()
    yield made
    await made.close()


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("body", NONSENSE)
async def test_an_answer_without_sense(stranger: Stranger, sidecar: DaprSidecar, body: bytes, name: str) -> None:
    stranger.body = body
    with pytest.raises(Unavailable):
        await READING[name](sidecar)


@pytest.mark.parametrize("name", READING | WRITING)
@pytest.mark.parametrize("body", [b"<html>Sorry</html>", b"[]", b"null", None])
async def test_a_failure_without_sense(stranger: Stranger, sidecar: DaprSidecar, body: bytes | None, name: str) -> None:
    stranger.status, stranger.body = 500, body
    with pytest.raises(Unavailable):
        await (READING | WRITING)[name](sidecar)


@pytest.mark.parametrize("name", READING | WRITING)
async def test_a_call_after_its_end(sidecar: DaprSidecar, name: str) -> None:
    await sidecar.close()
    with pytest.raises(Unavailable):
        await (READING | WRITING)[name](sidecar)


async def test_a_start_beside_a_stranger(stranger: Stranger) -> None:
    stranger.body = b"<html>Welcome</html>"
    made = DaprSidecar(stranger.port, "token")
    with pytest.raises(Unavailable, match="no Dapr sidecar answers"):
        await made.start(0.1)
    await made.close()
