"""When a request may be sent again, and how long to wait before: the same for the async and the sync client."""

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
    """How patient a client is."""

    times: int = 5
    """How often a request is sent again; 0: never."""
    longest_retry_after_seconds: float = 30.0
    """A server that asks for more than this gets no second try: its caller should know."""

    def delay(self, error: EnginehouseError, tried: int) -> float | None:
        """Seconds to wait before trying again after the `tried`-th try, or None: give up."""
        if tried > self.times:
            return None
        asked = error.retry_after_seconds
        if asked is not None:
            return asked if asked <= self.longest_retry_after_seconds else None
        # Jitter: clients that failed together do not come back together.
        return random.uniform(0.5, 1) * min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0**tried)  # noqa: S311


class RequestFailed(Exception):
    """A request that failed: with what error, and whether it may be sent again."""

    def __init__(self, error: EnginehouseError, *, again: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again


def check_answer(status: int, body: bytes, retry_after: str | None, *, safe: bool) -> None:
    """RequestFailed unless the answer is a success. `safe`: the request does nothing more when it is sent twice."""
    if status < 400:
        return
    error = from_answer(status, body, retry_after)
    # A 429 was turned away at the door, so nothing has been done.
    again = status == 429 or (safe and status in _AGAIN_STATUSES)
    raise RequestFailed(error, again=again) from None


def lost_request(error: httpx2.TransportError, url: str, *, safe: bool) -> RequestFailed:
    """What a broken connection means."""
    why = str(error) or type(error).__name__
    if isinstance(error, httpx2.UnsupportedProtocol):
        return RequestFailed(CannotConnect(f"{url!r} is no URL of Enginehouse: {why}"), again=False)
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        # Nothing was sent, so sending it again is safe whatever it is.
        return RequestFailed(CannotConnect(f"Nothing answers at {url}: {why}"), again=True)
    return RequestFailed(Unavailable(f"The connection to {url} broke: {why}"), again=safe)
