"""The HTTP side of an engine: thin routes over `EngineHost`, the ones on the hot path as bare ASGI."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from enginehouse.engine.codec import Answer, error_answer
from enginehouse.engine.host import EngineHost
from enginehouse.engine.openapi import add_predict

_LOADING = error_answer(503, {"message": "the engine is still loading", "retryable": True})
_WRONG_METHOD = error_answer(405, {"message": "use POST", "retryable": False})

Handler = Callable[[bytes], Awaitable[Answer]]


class EngineApp:
    """The ASGI app of one engine.

    POST /predict is an engine's whole overhead per job, so it goes from ASGI straight to the host: through a FastAPI
    route the same machine answered a third of the requests per second. Everything else is an ordinary FastAPI app.
    """

    def __init__(self, host: EngineHost) -> None:
        self.host = host
        self._hot: dict[str, Handler] = {"/predict": host.predict}
        if host.signature.batch:
            self._hot["/predict/batch"] = host.predict_batch
        if host.signature.update:
            self._hot["/update"] = host.update
        self._pages = _pages(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        handler = self._hot.get(scope["path"]) if scope["type"] == "http" else None
        if handler is None:
            await self._pages(scope, receive, send)
            return
        body = await _read_body(receive)
        if body is None:
            return
        if scope["method"] != "POST":
            answer = _WRONG_METHOD
        elif not self.host.ready:
            answer = _LOADING
        else:
            answer = await handler(body)
        await _send(send, answer)


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None if the caller has gone."""
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


async def _send(send: Send, answer: Answer) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer.body))]
    if answer.status == 503:
        headers.append((b"retry-after", b"1"))
    start: Message = {"type": "http.response.start", "status": answer.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body})


def _pages(host: EngineHost) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(host.load())
        yield
        loading.cancel()
        host.close()

    app = FastAPI(title=type(host.engine).__name__, lifespan=lifespan, redoc_url=None)

    @app.get("/healthz", summary="200 once the engine is loaded, 503 before")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok" if host.ready else "loading"}, 200 if host.ready else 503)

    @app.get("/info", summary="What the engine tells about itself")
    async def info() -> Any:
        return await host.info()

    if host.signature.predict.is_async:

        @app.post("/predict/{job_id}/cancel", summary="Cancel a prediction by its id")
        async def cancel(job_id: str, _: Request) -> Response:
            if host.cancel(job_id):
                return JSONResponse({"status": "canceling"}, 202)
            return JSONResponse({"error": {"message": "no such prediction is running", "retryable": False}}, 404)

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
