"""The door of a pod lets one call in, passes on what the engine answers as it is, and ends when that is over."""

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.support.runner import PORTS, TinyEngine
from tests.support.waiting import until_async

from enginehouse.oneshot.door import Door

_IDLE_SECONDS = 20.0
_ENGINES = Path(__file__).resolve().parents[1] / "engines"


class Pod:
    """An engine and the door before it."""

    def __init__(self, idle_seconds: float = _IDLE_SECONDS) -> None:
        self.engine = TinyEngine()
        self.port = PORTS.take()
        self.door = Door(self.engine.port, idle_seconds, linger_seconds=0.3)
        self.session = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")
        self.ended: asyncio.Task[str]

    async def start(self) -> None:
        """Start the engine, and then the door."""
        await self.engine.start()
        self.ended = asyncio.create_task(self.door.stand("127.0.0.1", self.port))
        await until_async(self._listens)

    async def _listens(self) -> bool:
        with contextlib.suppress(aiohttp.ClientConnectorError):
            async with self.session.get("/healthz"):
                return True
        return False

    async def predict(self, data: object, path: str = "/predict") -> tuple[int, object]:
        """Make a call; return the status and the body of the answer."""
        body = io.BytesIO(json.dumps({"data": data}).encode())
        headers = {"Content-Type": "application/json"}
        async with self.session.post(path, data=body, headers=headers) as answer:
            said = await answer.read()
            return answer.status, json.loads(said) if said.startswith(b"{") else None

    async def stop(self) -> None:
        """Stop everything."""
        self.ended.cancel()
        await asyncio.gather(self.ended, return_exceptions=True)
        await self.session.close()
        await self.engine.stop()


@contextlib.asynccontextmanager
async def _pod(idle_seconds: float = _IDLE_SECONDS) -> AsyncIterator[Pod]:
    made = Pod(idle_seconds)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    async with _pod() as made:
        yield made


class Waits:
    """Lets an engine's calls wait until they may end."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.entered = 0
        self.canceled = 0

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """Answer when it may."""
        self.entered += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.canceled += 1
            raise
        return web.json_response({"result": (await request.json())["data"]})


async def test_one_call_is_answered_and_then_it_ends(pod: Pod) -> None:
    async with pod.session.get("/healthz") as health:
        assert health.status == 200
    assert not pod.ended.done()
    assert await pod.predict({"text": "x" * 300_000}) == (200, {"result": {"text": "x" * 300_000}})
    assert await pod.ended == "The call is over"
    assert len(pod.engine.calls) == 1


async def test_a_second_call_is_refused_and_never_reaches_the_engine(pod: Pod) -> None:
    waits = Waits()
    pod.engine.predict = waits.predict
    first = asyncio.create_task(pod.predict("first"))
    await until_async(lambda: waits.entered == 1)
    refused = await asyncio.gather(
        pod.predict("second"), pod.predict("x" * 5_000_000), pod.predict("third", "/predict/batch")
    )
    assert [status for status, _ in refused] == [503] * 3
    async with pod.session.get("/healthz") as health:
        assert health.status == 200
    waits.may_end.set()
    assert await first == (200, {"result": "first"})
    await pod.ended
    assert [call["data"] for call in pod.engine.calls] == ["first"]
    assert pod.engine.batches == []


async def test_what_streams_comes_as_it_is_sent(pod: Pod) -> None:
    goes_on = asyncio.Event()

    async def predict(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await answer.prepare(request)
        await answer.write(b'{"progress": 0.5}\n')
        await goes_on.wait()
        await answer.write(b'{"result": 1}\n')
        return answer

    pod.engine.predict = predict
    async with pod.session.post("/predict", json={"data": 1}) as answer:
        assert await answer.content.readline() == b'{"progress": 0.5}\n'
        goes_on.set()
        assert await answer.content.readline() == b'{"result": 1}\n'
        assert answer.headers.getone("Connection") == "close"
    await pod.ended


async def test_a_caller_who_goes_away_ends_the_engines_call_and_the_pod(pod: Pod) -> None:
    waits = Waits()
    pod.engine.predict = waits.predict
    call = asyncio.create_task(pod.predict("late"))
    await until_async(lambda: waits.entered == 1)
    call.cancel()
    assert await pod.ended == "The caller closed the call, or has its answer"
    await until_async(lambda: waits.canceled == 1)


async def test_after_its_caller_the_word_comes_that_the_job_is_canceled(pod: Pod) -> None:
    waits = Waits()
    pod.engine.predict = waits.predict
    call = asyncio.create_task(pod.predict("late"))
    await until_async(lambda: waits.entered == 1)
    call.cancel()
    async with pod.session.post("/predict/job-1/cancel") as answer:
        assert answer.status == 404  # The engine's own: it offers none.
    await asyncio.wait_for(pod.ended, 1)
    assert pod.engine.canceled == ["job-1"]


async def test_a_word_of_cancelling_that_brings_something_is_a_call(pod: Pod) -> None:
    assert (await pod.predict("a job", "/predict/x/cancel"))[0] == 404
    assert (await pod.predict("another"))[0] == 503


async def test_what_comes_behind_the_call_on_its_connection_stays_outside(pod: Pod) -> None:
    waits = Waits()
    pod.engine.predict = waits.predict
    headers = b"Host: pod\r\nContent-Type: application/json\r\nContent-Length: 13"
    request = b"POST /predict HTTP/1.1\r\n" + headers + b'\r\n\r\n{"data": "a"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port)
    writer.write(request + request)
    await until_async(lambda: waits.entered == 1)
    waits.may_end.set()
    said = await reader.read()
    writer.close()
    await pod.ended
    assert said.count(b"HTTP/1.1") == 1
    assert len(pod.engine.calls) == 1


@pytest.mark.parametrize("is_broken_off", [True, False])
async def test_an_engine_that_dies_of_its_call_is_seen_by_the_caller(pod: Pod, is_broken_off: bool) -> None:
    async def predict(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "100"})
        if is_broken_off:
            await answer.prepare(request)
            await answer.write(b'{"result"')
        assert request.transport is not None
        request.transport.abort()
        return answer

    pod.engine.predict = predict
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await pod.predict("deadly")
    await pod.ended


async def test_without_an_engine_the_call_is_refused_so_that_it_goes_elsewhere(pod: Pod) -> None:
    await pod.engine.stop()
    async with pod.session.get("/healthz") as health:
        assert health.status == 503
    status, _ = await pod.predict("early")
    assert status == 503
    assert await pod.ended == "The call came, and the engine took no connection"


async def test_without_a_call_it_ends_by_itself_and_says_no_first() -> None:
    async with _pod(idle_seconds=0.2) as pod:
        await until_async(lambda: pod.door._closed.is_set())
        assert (await pod.predict("late"))[0] == 503
        assert await pod.ended == "No call came in time"
        assert pod.engine.calls == []


async def test_told_to_stop_it_lets_the_call_end(pod: Pod) -> None:
    waits = Waits()
    pod.engine.predict = waits.predict
    call = asyncio.create_task(pod.predict("long"))
    await until_async(lambda: waits.entered == 1)
    pod.door.close()
    await asyncio.sleep(0)
    waits.may_end.set()
    assert await call == (200, {"result": "long"})
    assert await pod.ended == "The call is over"


async def test_told_to_stop_before_a_call_it_takes_none(pod: Pod) -> None:
    pod.door.close()
    assert (await pod.predict("late"))[0] == 503
    assert await pod.ended == "It was told to stop before a call came"


@pytest.mark.parametrize(
    "request_head",
    [
        b"nonsense\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length : 3\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /predict HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
    ids=["nonsense", "chunked", "no-number", "space", "question-with-body", "long"],
)
async def test_what_it_does_not_understand_is_no_call(pod: Pod, request_head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port)
    writer.write(request_head)
    with contextlib.suppress(ConnectionError):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    assert (await pod.predict("the one"))[0] == 200


async def test_as_processes_of_their_own() -> None:
    """A real engine, unchanged, and the door as it runs in a pod."""
    engine_port, port = PORTS.take(), PORTS.take()
    engine = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "enginehouse.engine", "engine"),
        cwd=_ENGINES / "sleeps",
        env={**os.environ, "PORT": str(engine_port), "HOST": "127.0.0.1"},
    )
    arguments = ("--port", str(port), "--engine-port", str(engine_port), "--idle-seconds", "60")
    door = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "enginehouse.oneshot", *arguments), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def is_up() -> bool:
                with contextlib.suppress(aiohttp.ClientConnectorError):
                    async with session.get("/healthz") as health:
                        return health.status == 200
                return False

            await until_async(is_up)
            async with session.post("/predict", json={"data": {"seconds": 0.01}}) as answer:
                assert await answer.json() == {"result": {"slept": 0.01}}
        said, _ = await asyncio.wait_for(door.communicate(), 10)
        assert door.returncode == 0
        assert [json.loads(line)["action"] for line in said.splitlines()] == ["oneshot_started", "oneshot_ended"]
        assert engine.returncode is None
    finally:
        for process in (engine, door):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
