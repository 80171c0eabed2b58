"""Checks the headers of every request and gives it an id, before the framework sees it."""

import re

import uuid_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enginehouse.contracts.errors import InvalidHeader
from enginehouse.web.problems import problem

MAX_HEADERS = 100
MAX_BYTES = 32 * 1024
"""Limit of all header names and values together. A proxy in front should refuse much larger ones earlier."""
_SINGLE = (b"authorization", b"content-type", b"idempotency-key", b"inference-header-content-length")
"""Headers that may be given only once: if there were two, one part could use the first and another the second."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def wrong_headers(headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
    """Return the status and detail of a refusal, or None if the headers are in order."""
    size, single = 0, []
    for name, value in headers:
        size += len(name) + len(value)
        if name in _SINGLE:
            single.append(name)
    if len(headers) > MAX_HEADERS or size > MAX_BYTES:
        return 431, f"The request has {len(headers)} headers of {size} bytes; {MAX_HEADERS} of {MAX_BYTES} are allowed"
    twice = [name.decode() for name in _SINGLE if single.count(name) > 1]
    return (400, f"The header {twice[0]} may be given only once") if twice else None


class HeadersWithinBounds:
    """Refuses requests whose headers are too many or too large, or contradict each other."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        wrong = wrong_headers(scope["headers"]) if scope["type"] == "http" else None
        if wrong:
            status, detail = wrong
            await problem(InvalidHeader(detail), status, scope=scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class RequestId:
    """Gives every answer an X-Request-Id: the caller's own, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its id, and add the id to the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid_utils.uuid7()).encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["state"]["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, with_id)
