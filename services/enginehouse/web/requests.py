"""Reads bodies of requests within bounds, so that all APIs refuse them in one form."""

import re
from collections.abc import Callable
from typing import TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel

from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.errors import InputTooLarge, RequestError, UnsupportedMediaType
from enginehouse.contracts.json_text import read_body

_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)
M = TypeVar("M", bound=BaseModel)


async def no_query(request: Request) -> None:
    """Refuse every query parameter."""
    if request.url.query:
        given = ", ".join(repr(name[:60]) for name in sorted(request.query_params)[:5]) or "'?'"
        raise RequestError(f"This call takes no query parameters, and the request has {given}")


def refuse_encoded(request: Request) -> None:
    """Raise UnsupportedMediaType if the body is compressed or in another character set than UTF-8."""
    coding = ", ".join(request.headers.getlist("content-encoding"))
    if coding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType(f"Content-Encoding is {coding[:60]!r}; send the body as it is")
    charset = _CHARSET.search(request.headers.get("content-type", ""))
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"Content-Type has the charset {charset[1][:60]!r}; send the body as UTF-8")


async def body_of(
    request: Request, limit: int, hold: Callable[[int], None] | None = None, *, as_it_is: bool = False
) -> bytes:
    """Return the body; raise InputTooLarge as soon as it is known to have more than `limit` bytes.

    An encoded body is refused, unless it is passed on `as_it_is`. `hold` is called with the size of a large body before it is read, or with `limit` if its size is not declared.
    """
    if not as_it_is:
        refuse_encoded(request)
    declared = request.headers.get("content-length")
    size_known = declared is not None and declared.isdigit()
    if declared and size_known:
        if int(declared) > limit:
            raise InputTooLarge(f"The body has {declared} bytes; {limit} are allowed")
        if hold and int(declared) > INLINE_MAX_BYTES:
            hold(int(declared))
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise InputTooLarge(f"The body has more than the {limit} bytes that are allowed")
        if hold and not size_known and size - len(chunk) <= INLINE_MAX_BYTES < size:
            hold(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def require_json(request: Request) -> None:
    """Raise UnsupportedMediaType unless the body is declared as JSON, or as nothing."""
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise UnsupportedMediaType(f"Content-Type must be application/json, not {content_type[:60]!r}")


async def read_model(request: Request, model: type[M]) -> M:
    """Read a small body as `model`. The framework does not read it, so that all errors have one form."""
    require_json(request)
    return read_body(model, await body_of(request, INLINE_MAX_BYTES))


NoQueryAllowed = Depends(no_query)
