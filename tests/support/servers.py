"""Stand-ins for engines of each protocol, which do with a job what the test says. Real servers: `tests/acceptance`."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
import grpc.aio
from aiohttp import web

from enginehouse.contracts.engine import EngineSpec
from enginehouse.local.ports import PortPool
from enginehouse.open_inference.messages import MESSAGES, SERVICE

PORTS = PortPool()

Deed = Literal["answer", "hang", "close", "nonsense", "too much"] | int
"""What a stand-in does with a job. A number: it refuses with that status."""


@dataclass
class Spoken:
    """A protocol, as tests need it: an input, the body of its answer, and what the result is then."""

    spec: dict[str, Any]
    input: Any
    answer: Callable[[Any], Any]
    """Makes an answer whose result contains the given text."""
    result: Callable[[Any], Any]
    over_grpc: bool = False
    ready: str = "/healthz"
    """The route whose status is its health."""


def _tensor(text: Any) -> dict[str, Any]:
    return {"model_name": "m", "outputs": [{"name": "y", "shape": [1], "datatype": "BYTES", "data": [text]}]}


def _chat(text: Any) -> dict[str, Any]:
    return {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


_INFER = {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]}

SPOKEN = {
    "predict": Spoken({}, "hello", lambda text: {"result": text}, lambda text: text),
    "open-inference": Spoken(
        {"protocol": "open-inference", "open_inference": {"model": "m"}},
        _INFER,
        _tensor,
        _tensor,
        ready="/v2/health/ready",
    ),
    "open-inference over gRPC": Spoken(
        {"protocol": "open-inference", "open_inference": {"model": "m", "transport": "grpc"}},
        _INFER,
        _tensor,
        _tensor,
        over_grpc=True,
        ready="ServerReady",
    ),
    "openai": Spoken(
        {"protocol": "openai", "openai": {"model": "m"}},
        {"messages": [{"role": "user", "content": "hello"}]},
        _chat,
        _chat,
        ready="/health",
    ),
    "json": Spoken(
        {
            "protocol": "json",
            "json": {"path": "/do", "request": "{text: data}", "result": "found[0]", "health": "/up"},
        },
        "hello",
        lambda text: {"found": [text]},
        lambda text: text,
        ready="/up",
    ),
}


def spec_of(spoken: Spoken) -> EngineSpec:
    """Return the engine.yaml of an engine that speaks this."""
    return EngineSpec.model_validate({"tenant": "acme", "name": "ready", **spoken.spec})


@dataclass
class StandIn:
    """A server of one protocol."""

    spoken: Spoken
    deed: Deed = "answer"
    text: str = "fine"
    reason: str = "no such thing"
    """What it says when it refuses a job over gRPC."""
    status: int = 200
    """The status of its health."""
    silent: bool = False
    """Whether it answers no health check."""
    metadata: Any = None
    missing: set[str] = field(default_factory=set)
    """Routes that it does not have."""
    bodies: list[Any] = field(default_factory=list)
    """The jobs that it got, as JSON or as messages."""
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call that hangs was given up."""
    port: int = field(default_factory=PORTS.take)
    _web: web.AppRunner | None = None
    _grpc: grpc.aio.Server | None = None
    _stopping: "asyncio.Task[None] | None" = None

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Begin to listen."""
        if self.spoken.over_grpc:
            self._grpc = grpc.aio.server()
            self._grpc.add_generic_rpc_handlers((_Calls(self),))
            self._grpc.add_insecure_port(f"127.0.0.1:{self.port}")
            await self._grpc.start()
            return
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._web = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._web.setup()
        await web.TCPSite(self._web, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        over_grpc, over_http, self._grpc, self._web = self._grpc, self._web, None, None
        if over_grpc is not None:
            await over_grpc.stop(0)
        if over_http is not None:
            await over_http.cleanup()
        if self._stopping is not None and self._stopping is not asyncio.current_task():
            await self._stopping

    async def end(self) -> None:
        """Stop from within a call, which is canceled by that."""
        self._stopping = asyncio.create_task(self.stop())
        await asyncio.Event().wait()

    async def wait(self) -> None:
        """Wait until the call is given up."""
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path in self.missing:
            return web.Response(status=404)
        if request.method == "GET":
            if self.silent:
                await self.wait()
            if request.path == "/v2/models/m" and self.metadata is not None:
                return web.json_response(self.metadata)
            return web.json_response({}, status=self.status if request.path == self.spoken.ready else 200)
        self.bodies.append(await request.json())
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        return await self._do(request)

    async def _do(self, request: web.Request) -> web.StreamResponse:
        match self.deed:
            case "hang":
                await self.wait()
            case "close":
                assert request.transport
                request.transport.close()
            case "nonsense":
                return web.Response(body=b"<html>", content_type="application/json")
            case "too much":
                return web.json_response(self.spoken.answer("x" * 1024 * 1024))
            case int() as status:
                body = {"error": {"message": "no such thing"}}
                return web.json_response(body, status=status, headers={"Retry-After": "7"})
        return web.Response(body=json.dumps(self.spoken.answer(self.text)).encode(), content_type="application/json")


_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


class _Calls(grpc.GenericRpcHandler):
    """The calls of a stand-in over gRPC."""

    def __init__(self, server: StandIn) -> None:
        self._server = server

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method.removeprefix(f"/{SERVICE}/")

        async def answer(request: Any, context: Any) -> Any:
            return await self._answer(name, request, context)

        return grpc.unary_unary_rpc_method_handler(answer, MESSAGES[f"{name}Request"].FromString)

    async def _answer(self, name: str, request: Any, context: Any) -> bytes:
        server = self._server
        made = MESSAGES[f"{name}Response"]()
        if name == "ModelInfer":
            server.bodies.append(request)
            server.headers.append(dict(context.invocation_metadata()))
            return await self._infer(made, context)
        if server.silent:
            await server.wait()
        if name in ("ServerReady", "ModelReady"):
            made.ready = name != server.spoken.ready or server.status == 200
        if name == "ModelMetadata" and server.metadata is not None:
            for kind in ("inputs", "outputs"):
                for tensor in server.metadata[kind]:
                    getattr(made, kind).add(**tensor)
        return bytes(made.SerializeToString())

    async def _infer(self, made: Any, context: Any) -> bytes:
        server = self._server
        match server.deed:
            case "hang":
                await server.wait()
            case "close":
                await server.end()
            case "nonsense":
                return b"\xff<html>"
            case int() as status:
                await context.abort(_CODES[status], server.reason)
        text = "x" * 1024 * 1024 if server.deed == "too much" else server.text
        made.model_name = "m"
        output = made.outputs.add(name="y", shape=[1], datatype="BYTES")
        output.contents.bytes_contents.append(text.encode())
        return bytes(made.SerializeToString())
