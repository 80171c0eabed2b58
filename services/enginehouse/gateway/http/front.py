"""Requests whose headers are too many, too large or contradict each other get no further than this."""

from starlette.types import ASGIApp, Receive, Scope, Send

from enginehouse.contracts.errors import RequestError
from enginehouse.gateway.http.problems import problem

MAX_HEADERS = 100
MAX_BYTES = 32 * 1024
"""Of all names and values together. What is in front of the gateway should stop much larger ones before they are read."""
_ONCE = (b"authorization", b"content-type", b"idempotency-key")
"""Given twice, one part could believe the first and another the second."""


def wrong_headers(headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
    """The status and detail of a refusal, or None."""
    size, single = 0, []
    for name, value in headers:
        size += len(name) + len(value)
        if name in _ONCE:
            single.append(name)
    if len(headers) > MAX_HEADERS or size > MAX_BYTES:
        return 431, f"The request has {len(headers)} headers of {size} bytes; {MAX_HEADERS} of {MAX_BYTES} are allowed"
    twice = [name.decode() for name in _ONCE if single.count(name) > 1]
    return (400, f"The header {twice[0]} may be given once") if twice else None


class HeadersWithinBounds:
    """Refuses what `wrong_headers` finds wrong."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or let the app have it."""
        wrong = wrong_headers(scope["headers"]) if scope["type"] == "http" else None
        if wrong:
            status, detail = wrong
            await problem(RequestError(detail), status)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
