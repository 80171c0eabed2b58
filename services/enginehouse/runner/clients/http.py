"""The client of an engine that speaks HTTP as agreed: POST /predict, GET /healthz, and some routes it may offer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import pydantic_core

from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.events import PROGRESS_EVENT_MAX_BYTES
from enginehouse.runner.clients.answers import (
    malformed,
    read_answer,
    read_error,
    read_result,
    read_results,
    too_large,
)
from enginehouse.runner.clients.base import Health, Prediction, Reply
from enginehouse.runner.clients.wire import TooLarge, WireClient, read_body, read_lines
from enginehouse.runner.schema import Description, described_by

_STREAM = "application/x-ndjson"
_LINE_MAX_BYTES = 2 * PROGRESS_EVENT_MAX_BYTES
OnLine = Callable[[dict[str, Any]], None]


class HttpEngine(WireClient):
    """One replica of an engine, at the other end of `wire`."""

    async def predict(self, prediction: Prediction) -> Reply:
        """POST /predict and read the answer, up to its limit."""

        async def read(response: aiohttp.ClientResponse) -> Reply:
            if media_type(response) == _STREAM and 200 <= response.status < 300:
                return await self._read_stream(response, prediction)
            return await self._wire.read_whole(response, prediction, read_result)

        return await self._wire.ask("/predict", _body(prediction), read, traceparent=prediction.traceparent)

    async def predict_batch(self, predictions: Sequence[Prediction]) -> Reply | list[Reply]:
        """POST /predict/batch and read the answer, up to the limit of a single one."""
        limits = [self._wire.limits.of(prediction) for prediction in predictions]
        most = self._wire.limits.predict_max_bytes

        async def read(response: aiohttp.ClientResponse) -> Reply | list[Reply]:
            try:
                if not 200 <= response.status < 300:
                    return await self._wire.read_refusal(response)
                body = await read_body(response, most)
                replies: Reply | list[Reply] = await self._wire.elsewhere.read(predictions, read_results, body, limits)
                return replies
            except TooLarge:
                return too_large(f"more than {most} bytes", most)

        return await self._wire.ask("/predict/batch", _batch_body(predictions), read)

    async def _read_stream(self, response: aiohttp.ClientResponse, prediction: Prediction) -> Reply:
        """Read lines of `{progress|output|log|metric}`, up to the one with `{result}` or `{error}`."""
        limit = self._wire.limits.of(prediction)
        try:
            async for line in read_lines(response, self._wire.limits.predict_max_bytes):
                if (reply := await self._read_line(line, prediction, limit)) is not None:
                    return reply
        except TooLarge:
            return self._wire.too_large(response, limit)
        return malformed('its stream ended without a line {"result": …}')

    async def _read_line(self, line: bytes, prediction: Prediction, limit: int) -> Reply | None:
        if len(line) <= INLINE_MAX_BYTES:
            return _read_line(line, limit, prediction.on_line)
        reply: Reply | None = await self._wire.elsewhere.read([prediction], _read_line, line, limit, None)
        if reply is None and prediction.clock is not None:
            prediction.clock.go_on()
        return reply

    async def cancel(self, job_id: str) -> bool:
        """POST /predict/{id}/cancel, which an engine may offer."""
        return await self._wire.answers_2xx(f"/predict/{job_id}/cancel")

    async def health(self) -> Health:
        """GET /healthz."""
        health, status, body = await self._wire.probe("/healthz")
        if not status:
            return health
        counts = _read_counts(body)
        return replace(
            health,
            in_hand=counts.get("in_hand"),
            abandoned=counts.get("abandoned", 0),
            concurrency=counts.get("concurrency") or None,
        )

    async def describe(self) -> Description:
        """GET /openapi.json, and find the schemas of /predict in it."""
        body = await self._wire.describe("/openapi.json")
        try:
            found = pydantic_core.from_json(body or b"", allow_inf_nan=False)
        except ValueError:
            return Description()
        return described_by(found) if isinstance(found, dict) else Description()


def media_type(response: aiohttp.ClientResponse) -> str:
    """Return the media type of an answer, without its parameters."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


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


def _read_counts(body: bytes) -> dict[str, int]:
    """Return the counts in an answer to GET /healthz, by name."""
    try:
        said = pydantic_core.from_json(body)
    except ValueError:
        return {}
    return {name: count for name, count in said.items() if _is_count(count)} if isinstance(said, dict) else {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
