"""The HTTP connections to one engine replica, for every protocol over HTTP. Everything that comes back is bounded.

Decision, 2026-11-22: aiohttp, because this is the hot path. One call of an echo engine on a 2-core machine, body read
in bounded chunks: aiohttp 0.37 ms and 126 µs of CPU at 8 at once (7,900/s); httpx2 0.83 ms and 775 µs (1,290/s).
"""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from enginehouse.checkers import Checkers
from enginehouse.contracts.cloud_event import valid_traceparent
from enginehouse.contracts.engine import ENGINE_WARNING_HEADER, ENGINE_WARNING_MAX_CHARS
from enginehouse.contracts.errors import Unavailable
from enginehouse.runner.clients.answers import bounded, malformed, read_refusal, too_large
from enginehouse.runner.clients.base import Closed, Health, Prediction, Reply, Unreachable
from enginehouse.runner.clients.elsewhere import Elsewhere

_CONNECT_SECONDS = 5.0
# Servers close idle connections after 2 to 5 s. A job sent at that moment would look as if the engine died of it.
_KEEPALIVE_SECONDS = 1.0
SIDE_CALL_SECONDS = 2.0
"""Longest wait for an answer to a call beside the jobs."""
_WHOLE_MAX_BYTES = 256 * 1024
_ERROR_MAX_BYTES = 64 * 1024
_QUOTED_MAX_CHARS = 200
DESCRIPTION_MAX_BYTES = 1024 * 1024
_LINES_AT_ONCE = 500
"""So many lines are read before other jobs get their turn: an engine may send more than can be read."""
_JSON = {"Content-Type": "application/json"}
T = TypeVar("T")


class TooLarge(Exception):
    """The body is larger than it may be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of an engine's answers is taken."""

    predict_max_bytes: int
    """Most bytes of an answer that are ever held in memory."""
    output_max_bytes: int
    """Most bytes of a result, unless its job can keep more."""

    def of(self, prediction: Prediction) -> int:
        """Return the most bytes that the result of this job may have."""
        return prediction.output_max_bytes or self.output_max_bytes


class Wire:
    """The connections to a replica at `url` (`http://host:port`). Made inside the event loop that uses them."""

    def __init__(self, url: str, checkers: Checkers, limits: Limits) -> None:
        self.url = url.rstrip("/")
        self.address = self.url.removeprefix("http://")
        self.limits = limits
        self.warning: str | None = None
        """What slows the engine's jobs, in its own words, as of its last answer."""
        self.elsewhere = Elsewhere(checkers)
        # An engine is not trusted: it gets no cookies back, no redirect is followed, no answer is unpacked (it may be a
        # bomb), and no proxy of the environment is used.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            headers={"Accept-Encoding": "identity", "User-Agent": "enginehouse-runner"},
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(
        self,
        path: str,
        body: bytes,
        read: Callable[[aiohttp.ClientResponse], Awaitable[T]],
        *,
        traceparent: str | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> T | Reply:
        """Send JSON, or what `headers` say, and return what `read` makes of the answer; a reply if none could be read."""
        headers = headers or _JSON
        if valid := valid_traceparent(traceparent):
            headers = {**headers, "traceparent": valid}
        try:
            async with self._session.request(
                method, self.url + path, data=sendable(body), headers=headers, allow_redirects=False
            ) as response:
                self._note_warning(response)
                return await read(response)
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            return Unreachable(f"the engine at {self.address} cannot be reached: {type(error).__name__}")
        except (aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            return Closed("the engine closed the connection before it had answered")
        except (aiohttp.ClientError, ValueError) as error:
            return malformed(f"it is not HTTP ({type(error).__name__})")

    def _note_warning(self, response: aiohttp.ClientResponse) -> None:
        said = response.headers.get(ENGINE_WARNING_HEADER)
        self.warning = bounded(said, ENGINE_WARNING_MAX_CHARS) if said else None

    async def read_refusal(self, response: aiohttp.ClientResponse) -> Reply:
        """Return the meaning of an answer whose status is not 2xx."""
        try:
            body = await read_body(response, _ERROR_MAX_BYTES)
        except TooLarge:
            body = b""
        return read_refusal(response.status, response.headers.get("Retry-After"), body)

    async def read_whole(
        self,
        response: aiohttp.ClientResponse,
        prediction: Prediction,
        read: Callable[..., Reply],
        *more: Any,
        always_elsewhere: bool = False,
    ) -> Reply:
        """Return `read(body, limit, *more)` of an answer that is not a stream, or the meaning of its refusal."""
        limit = self.limits.of(prediction)
        try:
            if not 200 <= response.status < 300:
                return await self.read_refusal(response)
            body = await read_body(response, self.limits.predict_max_bytes)
        except TooLarge:
            return self.too_large(response, limit)
        reply: Reply = await self.elsewhere.read([prediction], read, body, limit, *more, always=always_elsewhere)
        return reply

    def too_large(self, response: aiohttp.ClientResponse, limit: int) -> Reply:
        """Return the failure for an answer that raised TooLarge."""
        size = response.headers.get("Content-Length")
        said = f"{size} bytes" if size and size.isdigit() else f"more than {self.limits.predict_max_bytes} bytes"
        return too_large(said[:30], limit)

    async def get(self, path: str, limit: int, seconds: float = SIDE_CALL_SECONDS) -> tuple[int, bytes]:
        """GET a route beside the jobs. Return status and body; raise TimeoutError, TooLarge or an error of aiohttp."""
        async with asyncio.timeout(seconds):
            async with self._session.get(self.url + path, allow_redirects=False) as response:
                self._note_warning(response)
                return response.status, await read_body(response, limit)

    async def answers_2xx(self, path: str) -> bool:
        """POST to a route beside the jobs; return whether it answers 2xx in time."""
        try:
            async with asyncio.timeout(SIDE_CALL_SECONDS):
                async with self._session.post(self.url + path, allow_redirects=False) as response:
                    return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False

    async def probe(self, path: str) -> tuple[Health, int, bytes]:
        """GET the route of a health check. Return what its status means, the status (0 without an answer) and the body."""
        try:
            status, body = await self.get(path, _ERROR_MAX_BYTES)
        except TimeoutError:
            said = f"GET {path} at {self.address} gives no answer within {SIDE_CALL_SECONDS:g} s"
            return Health(ok=False, answered=False, fault=said), 0, b""
        except aiohttp.ClientConnectorError:
            return Health(ok=False, fault=nothing_listens(self.address)), 0, b""
        except (aiohttp.ClientError, ValueError, TooLarge) as error:
            said = f"GET {path} at {self.address} cannot be read ({type(error).__name__}): it must answer in HTTP"
            return Health(ok=False, fault=said), 0, b""
        said = f"GET {path} at {self.address} answers {status}{_quoted(body)}: 200 means that it can work"
        return Health(ok=status == 200, fault=None if status == 200 else said), status, body

    async def describe(self, path: str) -> bytes | None:
        """GET a description of the engine; None if it has none, or one too large. Raise Unavailable if it cannot be asked."""
        try:
            status, body = await self.get(path, DESCRIPTION_MAX_BYTES, 5 * SIDE_CALL_SECONDS)
        except TooLarge:
            return None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"the engine at {self.address} does not show its {path.rpartition('/')[2]}") from error
        return body if status == 200 else None


def nothing_listens(address: str) -> str:
    """Say what is wrong with an engine that takes no connections."""
    return f"nothing listens on {address}: the engine must listen on the port in its variable PORT"


def sendable(body: bytes) -> bytes | io.BytesIO:
    """Return `body` for aiohttp, which writes a large body in parts only if it is a file."""
    return body if len(body) < _WHOLE_MAX_BYTES else io.BytesIO(body)


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body; raise TooLarge as soon as it is known to be longer than `limit`."""
    if (response.content_length or 0) > limit:
        response.close()
        raise TooLarge
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            raise TooLarge
    return bytes(body)


async def read_lines(response: aiohttp.ClientResponse, limit: int) -> AsyncIterator[bytes]:
    """Yield the lines of a body as they come, the last one also without its end. Raise TooLarge at a longer one."""
    line = bytearray()
    async for chunk in response.content.iter_any():
        if not line and chunk.isspace():
            continue
        *ended, rest = chunk.split(b"\n")
        for at, part in enumerate(ended):
            if at % _LINES_AT_ONCE == _LINES_AT_ONCE - 1:
                await asyncio.sleep(0)
            line += part
            yield bytes(line)
            line.clear()
        line += rest
        if len(line) > limit:
            raise TooLarge
    yield bytes(line)


def _quoted(body: bytes) -> str:
    text = bounded(body[: 4 * _QUOTED_MAX_CHARS].decode(errors="replace"), _QUOTED_MAX_CHARS)
    return f" ({text})" if text and not text.startswith("<") else ""  # An error page in HTML says nothing more.


class WireClient:
    """What every client of a replica at the other end of `wire` has in common."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._wire.address

    @property
    def warning(self) -> str | None:
        """What slows the engine's jobs, in its own words, as of its last answer: that of any server may say so in our header."""
        return self._wire.warning

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()
