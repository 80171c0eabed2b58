"""The loopback listener on which a sidecar delivers events to its app.

daprd adds the app token to *every* call of the app, service invocation included, so the token alone does not prove a
delivery: whatever names a calling app is refused, and the listener must never be the one that others reach.
"""

import base64
import hmac
from collections.abc import Awaitable, Callable, Mapping

import pydantic_core
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from enginehouse.contracts.errors import UnsafeSettings

Deliver = Callable[..., Awaitable[bool]]
"""Takes the raw body, and by name what the path holds in braces; True acknowledges, False asks for another delivery. Must not raise for a bad body."""

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Of a larger body only this much is handed on: it cannot be parsed, so it is dead-lettered with a reason."""

# The only two answers a sidecar may get: any other status or word makes it drop or dead-letter the event.
_ACKNOWLEDGED = b'{"status":"SUCCESS"}'
_AGAIN = b'{"status":"RETRY"}'


def raw_payload(body: bytes) -> bytes:
    """What was published: daprd wraps the raw payload of a foreign event as base64 data of an event of its own."""
    try:
        return base64.b64decode(pydantic_core.from_json(body)["data_base64"])
    except (ValueError, KeyError, TypeError):
        return body


def _answer(body: bytes) -> Response:
    return Response(body, media_type="application/json")


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk[: MAX_EVENT_BYTES - len(body)]
    return bytes(body)


def _delivery_route(path: str, deliver: Deliver, app_token: str) -> Route:
    expected = app_token.encode()

    async def endpoint(request: Request) -> Response:
        token = request.headers.get("dapr-api-token", "").encode()
        if not hmac.compare_digest(token, expected) or "dapr-caller-app-id" in request.headers:
            return JSONResponse({"error": "deliveries come from this app's own sidecar only"}, status_code=403)
        try:
            body = await _bounded_body(request)
        except ClientDisconnect:
            return _answer(_AGAIN)
        return _answer(_ACKNOWLEDGED if await deliver(body, **request.path_params) else _AGAIN)

    return Route(path, endpoint, methods=["POST"])


def delivery_app(
    routes: Mapping[str, Deliver],
    app_token: str,
    healthy: Callable[[], bool],
    extra: list[BaseRoute] | None = None,
) -> Starlette:
    """The app behind daprd's `--app-port`: a POST route per kind of subscription, `/healthz` for its app health check.

    `extra` adds routes that need no token (metrics).
    """
    if len(app_token) < 16:
        raise UnsafeSettings("APP_API_TOKEN must be set, to at least 16 characters: it proves deliveries")

    async def healthz(request: Request) -> Response:
        return JSONResponse({"healthy": healthy()}, status_code=200 if healthy() else 503)

    return Starlette(
        routes=[
            *(_delivery_route(path, deliver, app_token) for path, deliver in routes.items()),
            Route("/healthz", healthz),
            *(extra or []),
        ]
    )
