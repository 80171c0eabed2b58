"""Serve an engine over HTTP: thin routes over `EngineHost`. Routes that every job takes are bare ASGI."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from enginehouse.contracts.engine import ENGINE_WARNING_HEADER
from enginehouse.engine.codec import Answer, error_answer
from enginehouse.engine.host import EngineHost
from enginehouse.engine.openapi import add_predict
from enginehouse.engine.stream import Lines

_LOADING = error_answer(503, {"message": "the engine is still loading", "retryable": True})
_WRONG_METHOD = error_answer(405, {"message": "use POST", "retryable": False})

_WARNING_HEADER = ENGINE_WARNING_HEADER.lower().encode()
_STREAM_HEADERS = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]

BodyHandler = Callable[[bytes], Awaitable[Answer]]


class EngineApp:
    """The ASGI app of one engine.

    POST /predict is an engine's whole overhead per job, so it goes from ASGI straight to the host: a FastAPI route
    answered a third of the requests per second on the same machine. All other routes are an ordinary FastAPI app.
    """

    def __init__(self, host: EngineHost) -> None:
        self.host = host
        self._direct: dict[str, BodyHandler] = {"/predict": host.predict}
        if host.signature.batch:
            self._direct["/predict/batch"] = host.predict_batch
        if host.signature.update:
            self._direct["/update"] = host.update
        self._streams = host.signature.predict.streams
        self._fastapi = _fastapi_app(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        handler = self._direct.get(scope["path"]) if scope["type"] == "http" else None
        if handler is None:
            await self._fastapi(scope, receive, send)
            return
        body = await _read_body(receive)
        if body is None:
            return
        if scope["method"] != "POST":
            answer = _WRONG_METHOD
        elif not self.host.ready:
            answer = _LOADING
        elif self._streams and scope["path"] == "/predict":
            await self._stream(body, send)
            return
        else:
            answer = await handler(body)
        await _send(send, answer, self._warning())

    async def _stream(self, body: bytes, send: Send) -> None:
        """Send events as lines and the answer as the last line. Send a plain answer if no event comes before it."""
        lines = Lines()
        predicting = asyncio.create_task(self.host.predict(body, lines))
        predicting.add_done_callback(lambda _: lines.close())
        begun = False
        while taken := await lines.take():
            if not begun:
                begun = True
                headers = [*_STREAM_HEADERS, *self._warning()]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": taken, "more_body": True})
        answer = await predicting
        if begun:
            await send({"type": "http.response.body", "body": answer.body + b"\n"})
        else:
            await _send(send, answer, self._warning())

    def _warning(self) -> list[tuple[bytes, bytes]]:
        """Return the header that tells the runner what slows the engine, if anything does."""
        warning = self.host.warning
        return [] if warning is None else [(_WARNING_HEADER, warning.encode("ascii", "replace"))]


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body, or None if the caller has gone."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts: list[bytes] = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    return None


async def _send(send: Send, answer: Answer, more_headers: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer.body)), *more_headers]
    if answer.status == 503:
        headers.append((b"retry-after", b"1"))
    start: Message = {"type": "http.response.start", "status": answer.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body})


def _fastapi_app(host: EngineHost) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(host.load())
        yield
        loading.cancel()
        host.close()

    app = FastAPI(title=type(host.engine).__name__, lifespan=lifespan, redoc_url=None)

    @app.get("/healthz", summary="200 once the engine is loaded, 503 before")
    async def healthz() -> Response:
        said: dict[str, Any] = {"status": "ok" if host.ready else "loading", "in_hand": host.in_hand}
        said |= {"abandoned": host.abandoned, "concurrency": host.concurrency}
        headers = (
            {} if host.warning is None else {ENGINE_WARNING_HEADER: host.warning.encode("ascii", "replace").decode()}
        )
        return JSONResponse(said, 200 if host.ready else 503, headers)

    @app.get("/info", summary="The engine's description of itself")
    async def info() -> Any:
        return await host.info()

    @app.post("/predict/{job_id}/cancel", summary="Cancel a prediction by its id")
    async def cancel(job_id: str, _: Request) -> Response:
        stopped = await host.cancel(job_id)
        if stopped:
            return JSONResponse({"status": "canceled"}, 202)
        message = "it has not stopped yet" if stopped is False else "no such prediction is running"
        error = {"message": message, "retryable": stopped is False}
        return JSONResponse({"error": error}, 409 if stopped is False else 404)

    host.engine.extend(app)
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            base = get_openapi(title=app.title, version=app.version, description=_about(host), routes=app.routes)
            document.update(add_predict(base, host.signature))
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _about(host: EngineHost) -> str:
    return (type(host.engine).__doc__ or "").strip()
