"""The client of an engine that speaks HTTP as agreed: POST /predict, GET /healthz, and some routes it may offer.

Decision, 2026-11-22: aiohttp, because this is the hot path. One call of an echo engine on a 2-core machine, body read
in bounded chunks: aiohttp 0.37 ms and 126 µs of CPU at 8 at once (7,900/s); httpx2 0.83 ms and 775 µs (1,290/s).
"""

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp
import pydantic_core

from enginehouse.checkers import Checkers, TooCostly
from enginehouse.contracts.cloud_event import valid_traceparent
from enginehouse.contracts.engine import ENGINE_WARNING_HEADER, ENGINE_WARNING_MAX_CHARS, INLINE_MAX_BYTES
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.events import PROGRESS_EVENT_MAX_BYTES
from enginehouse.runner.clients.answers import (
    bounded,
    malformed,
    read_answer,
    read_apart,
    read_error,
    read_refusal,
    read_result,
    read_results,
    too_large,
)
from enginehouse.runner.clients.base import Closed, Health, Prediction, Reply, Unreachable
from enginehouse.runner.outcome import HandedBack

_CONNECT_SECONDS = 5.0
# Servers close idle connections after 2 to 5 s. A job sent at that moment would look as if the engine died of it.
_KEEPALIVE_SECONDS = 1.0
_SIDE_CALL_SECONDS = 2.0
_CPU_SECONDS = 10.0
"""Most processor time for reading one answer."""
_NOT_READ_DELAY_SECONDS = 5.0
_WHOLE_MAX_BYTES = 256 * 1024
_ERROR_MAX_BYTES = 64 * 1024
_QUOTED_MAX_CHARS = 200
_OPENAPI_MAX_BYTES = 1024 * 1024
_STREAM = "application/x-ndjson"
_LINES_AT_ONCE = 500
"""So many lines are read before other jobs get their turn: an engine may send more than can be read."""
_LINE_MAX_BYTES = 2 * PROGRESS_EVENT_MAX_BYTES
_JSON = {"Content-Type": "application/json"}
OnLine = Callable[[dict[str, Any]], None]
T = TypeVar("T")


class _TooLarge(Exception):
    """The body is larger than it may be."""


class HttpEngine:
    """One replica of an engine at `url` (`http://host:port`). Made inside the event loop that uses it."""

    def __init__(self, url: str, checkers: Checkers, *, predict_max_bytes: int, output_max_bytes: int) -> None:
        self._url = url.rstrip("/")
        self._address = self._url.removeprefix("http://")
        self._warning: str | None = None
        self._checkers = checkers
        self._predict_max_bytes = predict_max_bytes
        self._output_max_bytes = output_max_bytes
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

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._address

    @property
    def warning(self) -> str | None:
        """What slows the engine's jobs, in its own words, as of its last answer."""
        return self._warning

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def predict(self, prediction: Prediction) -> Reply:
        """POST /predict and read the answer, up to its limit."""
        headers = _JSON
        if traceparent := valid_traceparent(prediction.traceparent):
            headers = {**_JSON, "traceparent": traceparent}

        async def read(response: aiohttp.ClientResponse) -> Reply:
            return await self._read_reply(response, prediction)

        return await self._post("/predict", _body(prediction), headers, read)

    async def predict_batch(self, predictions: Sequence[Prediction]) -> Reply | list[Reply]:
        """POST /predict/batch and read the answer, up to the limit of a single one."""
        limits = [self._limit(prediction) for prediction in predictions]

        async def read(response: aiohttp.ClientResponse) -> Reply | list[Reply]:
            try:
                if not 200 <= response.status < 300:
                    return await self._read_refusal(response)
                body = await _read(response, self._predict_max_bytes)
                replies: Reply | list[Reply] = await self._read_large(predictions, read_results, body, limits)
                return replies
            except _TooLarge:
                return too_large(f"more than {self._predict_max_bytes} bytes", self._predict_max_bytes)

        return await self._post("/predict/batch", _batch_body(predictions), _JSON, read)

    def _limit(self, prediction: Prediction) -> int:
        return prediction.output_max_bytes or self._output_max_bytes

    async def _post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        read: Callable[[aiohttp.ClientResponse], Awaitable[T]],
    ) -> T | Reply:
        try:
            async with self._session.post(
                self._url + path, data=sendable(body), headers=headers, allow_redirects=False
            ) as response:
                self._note_warning(response)
                return await read(response)
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            return Unreachable(f"the engine at {self._address} cannot be reached: {type(error).__name__}")
        except (aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            return Closed("the engine closed the connection before it had answered")
        except (aiohttp.ClientError, ValueError) as error:
            return malformed(f"it is not HTTP ({type(error).__name__})")

    def _note_warning(self, response: aiohttp.ClientResponse) -> None:
        said = response.headers.get(ENGINE_WARNING_HEADER)
        self._warning = bounded(said, ENGINE_WARNING_MAX_CHARS) if said else None

    async def _read_reply(self, response: aiohttp.ClientResponse, prediction: Prediction) -> Reply:
        limit = self._limit(prediction)
        try:
            if not 200 <= response.status < 300:
                return await self._read_refusal(response)
            if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() == _STREAM:
                return await self._read_stream(response, prediction, limit)
            body = await _read(response, self._predict_max_bytes)
            reply: Reply = await self._read_large([prediction], read_result, body, limit)
            return reply
        except _TooLarge:
            size = response.headers.get("Content-Length")
            said = f"{size} bytes" if size and size.isdigit() else f"more than {self._predict_max_bytes} bytes"
            return too_large(said[:30], limit)

    async def _read_refusal(self, response: aiohttp.ClientResponse) -> Reply:
        try:
            body = await _read(response, _ERROR_MAX_BYTES)
        except _TooLarge:
            body = b""
        return read_refusal(response.status, response.headers.get("Retry-After"), body)

    async def _read_stream(self, response: aiohttp.ClientResponse, prediction: Prediction, limit: int) -> Reply:
        """Read lines of `{progress|output|log|metric}`, up to the one with `{result}` or `{error}`."""
        line = bytearray()
        async for chunk in response.content.iter_any():
            if not line and chunk.isspace():
                continue
            *ended, rest = chunk.split(b"\n")
            for at, part in enumerate(ended):
                if at % _LINES_AT_ONCE == _LINES_AT_ONCE - 1:
                    await asyncio.sleep(0)
                line += part
                if (reply := await self._read_line(bytes(line), prediction, limit)) is not None:
                    return reply
                line.clear()
            line += rest
            if len(line) > self._predict_max_bytes:
                raise _TooLarge
        return await self._read_line(bytes(line), prediction, limit) or malformed(
            'its stream ended without a line {"result": …}'
        )

    async def _read_line(self, line: bytes, prediction: Prediction, limit: int) -> Reply | None:
        if len(line) <= INLINE_MAX_BYTES:
            return _read_line(line, limit, prediction.on_line)
        reply: Reply | None = await self._read_large([prediction], _read_line, line, limit, None)
        if reply is None and prediction.clock is not None:
            prediction.clock.go_on()
        return reply

    async def _read_large(
        self, predictions: Sequence[Prediction], read: Callable[..., Any], body: bytes, *more: Any
    ) -> Any:
        """Return `read(body, *more)`, the answer to `predictions`.

        A large answer is read in another process, because it would hold up the jobs of others. It waits for its turn
        there, so their clocks are held: the engine has answered.
        """
        if len(body) <= INLINE_MAX_BYTES:
            return read(body, *more)
        for prediction in predictions:
            if prediction.clock is not None:
                prediction.clock.hold()
        try:
            return await self._checkers.run(predictions[0].tenant, _CPU_SECONDS, read_apart, read, body, *more)
        except TooCostly:
            return malformed(f"to read its {len(body)} bytes took too much processor time or memory")
        except Unavailable:
            return HandedBack("the machine has no time to read the engine's answer", _NOT_READ_DELAY_SECONDS)

    async def cancel(self, job_id: str) -> bool:
        """POST /predict/{id}/cancel, which an engine may offer."""
        try:
            async with asyncio.timeout(_SIDE_CALL_SECONDS):
                async with self._session.post(
                    f"{self._url}/predict/{job_id}/cancel", allow_redirects=False
                ) as response:
                    return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False

    async def health(self) -> Health:
        """GET /healthz."""
        try:
            async with asyncio.timeout(_SIDE_CALL_SECONDS):
                async with self._session.get(f"{self._url}/healthz", allow_redirects=False) as response:
                    self._note_warning(response)
                    body = await _read(response, _ERROR_MAX_BYTES)
        except TimeoutError:
            said = f"GET /healthz at {self._address} gives no answer within {_SIDE_CALL_SECONDS:g} s"
            return Health(ok=False, answered=False, fault=said)
        except aiohttp.ClientConnectorError:
            said = f"nothing listens on {self._address}: the engine must listen on the port in its variable PORT"
            return Health(ok=False, fault=said)
        except (aiohttp.ClientError, ValueError, _TooLarge) as error:
            said = f"GET /healthz at {self._address} cannot be read ({type(error).__name__}): it must answer in HTTP"
            return Health(ok=False, fault=said)
        return self._read_health(response.status, body)

    def _read_health(self, status: int, body: bytes) -> Health:
        counts = _read_counts(body)
        said = f"GET /healthz at {self._address} answers {status}{_quoted(body)}: 200 means that it can work"
        return Health(
            ok=status == 200,
            in_hand=counts.get("in_hand"),
            abandoned=counts.get("abandoned", 0),
            concurrency=counts.get("concurrency") or None,
            fault=None if status == 200 else said,
        )

    async def openapi(self) -> Mapping[str, Any] | None:
        """GET /openapi.json. Return None if it is too large or not a JSON object."""
        try:
            async with asyncio.timeout(5 * _SIDE_CALL_SECONDS):
                async with self._session.get(f"{self._url}/openapi.json", allow_redirects=False) as response:
                    body = await _read(response, _OPENAPI_MAX_BYTES) if response.status == 200 else b""
        except _TooLarge:
            return None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"the engine at {self._address} does not show its openapi.json") from error
        try:
            found = pydantic_core.from_json(body, allow_inf_nan=False)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


def _read_line(line: bytes, limit: int, on_line: OnLine | None) -> Reply | None:
    """Return the reply if the line ends the stream. Otherwise give it to `on_line` if it is small, and return None."""
    ends = b'"result"' in line or b'"error"' in line
    if not ends and (on_line is None or not line.strip() or len(line) > _LINE_MAX_BYTES):
        return None
    try:
        answer = pydantic_core.from_json(line, allow_inf_nan=False)
    except ValueError:
        return malformed("a line of its stream is not JSON")
    if not isinstance(answer, dict):
        return None
    if "result" in answer:
        return read_answer(answer, line, limit)
    if "error" in answer:
        return read_error(answer["error"])
    if on_line is not None and len(line) <= _LINE_MAX_BYTES:
        on_line(answer)
    return None


def sendable(body: bytes) -> bytes | io.BytesIO:
    """Return `body` for aiohttp, which writes a large body in parts only if it is a file."""
    return body if len(body) < _WHOLE_MAX_BYTES else io.BytesIO(body)


def _body(prediction: Prediction) -> bytes:
    body: dict[str, Any] = {"id": prediction.job_id}
    if prediction.parameters is not None:
        body["parameters"] = prediction.parameters
    if prediction.data_json is None:
        body["data"] = prediction.data
        return pydantic_core.to_json(body)
    return pydantic_core.to_json(body)[:-1] + b',"data":' + prediction.data_json + b"}"


def _batch_body(predictions: Sequence[Prediction]) -> bytes:
    inputs = b",".join(
        pydantic_core.to_json(prediction.data) if prediction.data_json is None else prediction.data_json
        for prediction in predictions
    )
    rest: dict[str, Any] = {"ids": [prediction.job_id for prediction in predictions]}
    if predictions[0].parameters is not None:
        rest["parameters"] = predictions[0].parameters
    return b'{"data":[' + inputs + b"]," + pydantic_core.to_json(rest)[1:]


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body; raise _TooLarge as soon as it is known to be longer than `limit`."""
    if (response.content_length or 0) > limit:
        response.close()
        raise _TooLarge
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            raise _TooLarge
    return bytes(body)


def _quoted(body: bytes) -> str:
    text = bounded(body[: 4 * _QUOTED_MAX_CHARS].decode(errors="replace"), _QUOTED_MAX_CHARS)
    return f" ({text})" if text and not text.startswith("<") else ""  # An error page in HTML says nothing more.


def _read_counts(body: bytes) -> dict[str, int]:
    """Return the counts in an answer to GET /healthz, by name."""
    try:
        said = pydantic_core.from_json(body)
    except ValueError:
        return {}
    return {name: count for name, count in said.items() if _is_count(count)} if isinstance(said, dict) else {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
