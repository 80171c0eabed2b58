"""Listen on loopback for the events that a sidecar delivers to its app.

daprd adds the app token to *every* call of the app, also to service invocation, so the token alone does not prove a
delivery. Therefore a call that names a calling app reaches only what is there for that app, and no route of deliveries;
and other apps must never reach this listener.
"""

import base64
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pydantic_core
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from enginehouse.contracts.errors import UnsafeSettings

Deliver = Callable[..., Awaitable[bool]]
"""Handles one delivery: takes the raw body. On a path with parts in braces also these, by name, and as `dropped` the
attributes that the publisher gave as metadata and that Dapr left out of the event.

Returns True to acknowledge, False to ask for another delivery. Must not raise for a bad body.
"""

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Larger bodies are cut to this size. The rest cannot be parsed, so it is dead-lettered with a reason."""

# The only two answers for a sidecar. After any other status or word it drops or dead-letters the event.
_ACKNOWLEDGED = b'{"status":"SUCCESS"}'
_AGAIN = b'{"status":"RETRY"}'
_METADATA_PREFIX = b"cloudevent."
_TAKEN_FROM_METADATA = frozenset(
    _METADATA_PREFIX + name
    for name in (b"id", b"source", b"type", b"subject", b"traceid", b"traceparent", b"tracestate")
)
_STRANGER = b'{"error":"deliveries come from this app\'s own sidecar only"}'
_CALLER = b"dapr-caller-app-id"
"""The calling app's sidecar says here whose it is."""


def raw_payload(body: bytes) -> bytes:
    """Return the bytes that were published. daprd wraps a raw payload as base64 data of an event of its own."""
    try:
        return base64.b64decode(pydantic_core.from_json(body)["data_base64"])
    except (ValueError, KeyError, TypeError):
        return body


class DeliveryApp:
    """The app behind daprd's `--app-port`. Bare ASGI, because every job passes through it."""

    def __init__(
        self, routes: Mapping[str, Deliver], app_token: str, pages: Starlette, callers: Mapping[str, ASGIApp]
    ) -> None:
        self._exact = {path: deliver for path, deliver in routes.items() if "{" not in path}
        self._patterns = [
            (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), deliver)
            for path, deliver in routes.items()
            if "{" in path
        ]
        self._token = app_token.encode()
        self._pages = pages
        self._callers = {app_id.encode(): app for app_id, app in callers.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http" and (callers := _headers(scope, _CALLER)):
            await self._serve_caller(callers, scope, receive, send)
            return
        found = self._find(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._pages(scope, receive, send)
            return
        deliver, names = found
        if not self._has_token(scope):
            await _send(send, 403, _STRANGER)
            return
        if names:
            names["dropped"] = _dropped_attributes(scope)
        body = await _bounded_body(receive)
        acknowledged = body is not None and await deliver(body, **names)
        await _send(send, 200, _ACKNOWLEDGED if acknowledged else _AGAIN)

    def _find(self, path: str) -> tuple[Deliver, dict[str, Any]] | None:
        deliver = self._exact.get(path)
        if deliver is not None:
            return deliver, {}
        for pattern, deliver in self._patterns:
            if match := pattern.fullmatch(path):
                return deliver, match.groupdict()
        return None

    async def _serve_caller(self, callers: list[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        # An app that sends the header itself has two: its own value, and its sidecar's.
        app = self._callers.get(callers[0]) if len(callers) == 1 else None
        if app is None or not self._has_token(scope):
            await _send(send, 403, _STRANGER)
        else:
            await app(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        return hmac.compare_digest(b"".join(_headers(scope, b"dapr-api-token")), self._token)


def _headers(scope: Scope, wanted: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == wanted]


def _dropped_attributes(scope: Scope) -> dict[str, str]:
    """Return what was published as metadata `cloudevent.<name>`, without the attributes that Dapr does take from there.

    Over brokers that keep a message's metadata, as Redis does, it arrives as headers.
    """
    return {
        name.removeprefix(_METADATA_PREFIX).decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name.startswith(_METADATA_PREFIX) and name not in _TAKEN_FROM_METADATA
    }


async def _bounded_body(receive: Receive) -> bytes | None:
    """Return at most MAX_EVENT_BYTES of the body, or None if the caller has gone."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b"")[:MAX_EVENT_BYTES])
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")[: MAX_EVENT_BYTES - len(body)]
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()
    return None


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def delivery_app(
    routes: Mapping[str, Deliver],
    app_token: str,
    healthy: Callable[[], bool],
    extra: list[BaseRoute] | None = None,
    callers: Mapping[str, ASGIApp] | None = None,
) -> DeliveryApp:
    """Return the app: a POST route for each kind of subscription, and `/healthz` for daprd's app health check.

    `extra` adds routes that need no token (metrics). `callers` has what serves an app's calls by service invocation, by app
    id; calls of every other app are refused.
    """
    if len(app_token) < 16:
        raise UnsafeSettings("APP_API_TOKEN must be set and have at least 16 characters: it proves deliveries")

    async def healthz(request: Request) -> Response:
        return JSONResponse({"healthy": healthy()}, status_code=200 if healthy() else 503)

    return DeliveryApp(routes, app_token, Starlette(routes=[Route("/healthz", healthz), *(extra or [])]), callers or {})
