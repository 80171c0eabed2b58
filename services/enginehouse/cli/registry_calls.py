"""Calls the registry of another Enginehouse with an operator's key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from pydantic import SecretStr

from enginehouse.cli.running import run
from enginehouse.client.errors import from_answer
from enginehouse.contracts.errors import Forbidden, RequestError, Unauthenticated
from enginehouse.local.errors import LocalError

_UPLOAD_SECONDS = 600
_CONNECT_SECONDS = 20


@asynccontextmanager
async def connected_to(url: str, key: SecretStr) -> AsyncIterator[httpx2.AsyncClient]:
    """Give a client of the registry at `url`. Raise LocalError, naming the URL, where it refuses the key or is away."""
    patience = httpx2.Timeout(_UPLOAD_SECONDS, connect=_CONNECT_SECONDS)
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=patience) as http:
        try:
            yield http
        except (Unauthenticated, Forbidden) as error:
            raise LocalError(f"{url}: {error}.", "'enginehouse environments add' takes another key.") from None
        except httpx2.ReadTimeout:
            raise LocalError(
                f"{url} has not answered for {_UPLOAD_SECONDS / 60:g} minutes, and may still be at work.",
                "Look there whether it comes, or try it again later.",
            ) from None
        except httpx2.HTTPError as error:
            why = str(error) or type(error).__name__
            raise LocalError(f"{url} cannot be reached: {why}.", "Is its registry up?") from None


def content_of(answer: httpx2.Response) -> dict[str, Any]:
    """Return what the registry answers; nothing where an answer has no body. Raise what it refuses with."""
    if not answer.is_success:
        raise from_answer(answer.status_code, answer.content, answer.headers.get("retry-after"))
    try:
        content: dict[str, Any] = answer.json() if answer.content else {}
    except ValueError:
        raise RequestError(f"{answer.url.path} is answered with what is not JSON") from None
    return content


def call(url: str, key: SecretStr, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """Make one call, and return its answer. Raise LocalError, or what the registry refuses with."""

    async def ask() -> dict[str, Any]:
        async with connected_to(url, key) as http:
            return content_of(await http.request(method, path, json=body))

    return run(ask())
