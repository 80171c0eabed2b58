"""Decide whether and when a request is sent again. Shared by the async and the sync client."""

import random
from dataclasses import dataclass

import httpx2

from enginehouse.client.errors import CannotConnect, from_answer
from enginehouse.contracts.errors import EnginehouseError, Unavailable

_AGAIN_STATUSES = (429, 502, 503, 504)
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """How patiently a client repeats requests."""

    times: int = 5
    """How often a request is repeated. 0: never."""
    longest_retry_after_seconds: float = 30.0
    """If the server asks for a longer wait, the request is not repeated, so that the caller learns of it."""

    def delay(self, error: EnginehouseError, tried: int) -> float | None:
        """Return the seconds to wait after try number `tried`, or None to give up."""
        if tried > self.times:
            return None
        asked = error.retry_after_seconds
        if asked is not None:
            return asked if asked <= self.longest_retry_after_seconds else None
        # Jitter, so that clients that failed together do not return together.
        return random.uniform(0.5, 1) * min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0**tried)  # noqa: S311


class RequestFailed(Exception):
    """A request failed. `error` is the reason; `again` says whether it may be sent again."""

    def __init__(self, error: EnginehouseError, *, again: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again


def check_answer(status: int, body: bytes, retry_after: str | None, *, safe: bool) -> None:
    """Raise RequestFailed unless the answer is a success. `safe`: the request may be sent twice without harm."""
    if status < 300:
        return
    error = from_answer(status, body, retry_after)
    # The server refused a 429 before doing anything.
    again = status == 429 or (safe and status in _AGAIN_STATUSES)
    raise RequestFailed(error, again=again) from None


def check_origin(answer: httpx2.Response, url: str) -> None:
    """Raise CannotConnect if a success does not come from Enginehouse, but perhaps from the page of a proxy."""
    kind = answer.headers.get("content-type", "nothing")
    if answer.content and not kind.startswith("application/json"):
        raise CannotConnect(f"What answers at {url} is not Enginehouse: it sent {kind}")


def lost_request(error: httpx2.RequestError, url: str, *, safe: bool) -> RequestFailed:
    """Return the failure that a broken connection means."""
    why = str(error) or type(error).__name__
    if isinstance(error, httpx2.UnsupportedProtocol):
        return RequestFailed(CannotConnect(f"{url!r} is not a URL of Enginehouse: {why}"), again=False)
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        # Nothing was sent, so any request may be sent again.
        return RequestFailed(CannotConnect(f"Nothing answers at {url}: {why}"), again=True)
    return RequestFailed(Unavailable(f"The connection to {url} broke: {why}"), again=safe)
