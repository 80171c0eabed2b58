"""The client of a server with the routes of OpenAI's API, such as vLLM, llama.cpp or Ollama.

A job's input is the body of a call, and its result the whole answer. An input with `stream: true` has its text streamed
as `output` events while it comes, and the same result.
"""

from collections.abc import Mapping
from typing import Any

import aiohttp
import pydantic_core

from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.protocols import OpenAI
from enginehouse.runner.clients.answers import malformed, read_computed, read_document, read_error
from enginehouse.runner.clients.base import Health, Prediction, Reply
from enginehouse.runner.clients.completion import Completion, NotAChunk
from enginehouse.runner.clients.http import media_type
from enginehouse.runner.clients.ready_made import ReadyMadeServer
from enginehouse.runner.clients.wire import TooLarge, Wire, read_lines
from enginehouse.runner.outcome import Rejected
from enginehouse.runner.schema import Description

_ROUTES = {"messages": "/v1/chat/completions", "prompt": "/v1/completions", "input": "/v1/embeddings"}
"""The route of a call, by the key that its body has."""
_STREAM = "text/event-stream"
_DONE = b"[DONE]"

_INPUT: dict[str, Any] = {
    "type": "object",
    "oneOf": [{"required": [key]} for key in _ROUTES],
    "properties": {
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}}},
        },
        "prompt": {"type": ["string", "array"]},
        "input": {"type": ["string", "array"]},
        "model": {"type": "string"},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {"type": ["object", "null"]},
    },
}
"""What all these servers agree on; they know best what else they take."""
_OUTPUT: dict[str, Any] = {"type": "object", "properties": {"object": {"type": "string"}, "usage": {"type": "object"}}}


class OpenAIEngine(ReadyMadeServer):
    """One replica of such a server."""

    def __init__(self, wire: Wire, options: OpenAI) -> None:
        super().__init__(wire)
        self._model = options.model

    async def predict(self, prediction: Prediction) -> Reply:
        """POST the input to the route that it is for."""
        made = await self._wire.elsewhere.make(prediction, call_body, self._model)
        if not isinstance(made, bytes):
            return made
        route, _, body = made.partition(b" ")

        async def read(response: aiohttp.ClientResponse) -> Reply:
            if media_type(response) == _STREAM and 200 <= response.status < 300:
                return await self._read_stream(response, prediction)
            return await self._wire.read_whole(response, prediction, read_document)

        return await self._wire.ask(route.decode(), body, read, traceparent=prediction.traceparent)

    async def _read_stream(self, response: aiohttp.ClientResponse, prediction: Prediction) -> Reply:
        """Read chunks up to the last one, and return the whole completion."""
        limits = self._wire.limits
        whole = Completion(prediction.on_line, limits.predict_max_bytes)
        try:
            async for line in read_lines(response, INLINE_MAX_BYTES):
                if (data := _data_of(line)) == _DONE:
                    return read_computed(whole.finish(), limits.of(prediction))
                if data and (failure := _read_chunk(data, whole)) is not None:
                    return failure
        except TooLarge:
            return malformed(
                f"its stream is larger than it may be, or has a line of more than {INLINE_MAX_BYTES} bytes"
            )
        except NotAChunk as error:
            return malformed(str(error))
        # Some servers end without the last line.
        return read_computed(whole.finish(), limits.of(prediction)) if whole.ended else malformed(_CUT_SHORT)

    async def cancel(self, job_id: str) -> bool:
        """Return True: these servers stop a call whose connection is closed, which it is by now."""
        return True

    async def health(self) -> Health:
        """GET /health; where there is none, GET /v1/models."""
        health, status, _ = await self._wire.probe("/health")
        return (await self._wire.probe("/v1/models"))[0] if status == 404 else health

    async def describe(self) -> Description:
        """Return the schemas of all calls."""
        return Description(_INPUT, _OUTPUT)


_CUT_SHORT = 'its stream ended before "data: [DONE]"'


def call_body(data: Any, job_id: str, parameters: Mapping[str, Any] | None, model: str) -> bytes | Rejected:
    """Return the route of a call, a space, and its body. What the input leaves out comes from the job's `parameters`.

    A stream is asked for its usage, which the result would lack otherwise.
    """
    wanted = [key for key in _ROUTES if isinstance(data, dict) and key in data]
    if len(wanted) != 1:
        return Rejected('the input must have one of "messages" (chat), "prompt" (completion) and "input" (embeddings)')
    body = {"model": model, **(parameters or {}), **data}
    options = body.get("stream_options")
    if body.get("stream") is True and isinstance(options, dict | None):
        body["stream_options"] = {"include_usage": True, **(options or {})}
    return _ROUTES[wanted[0]].encode() + b" " + pydantic_core.to_json(body)


def _data_of(line: bytes) -> bytes:
    """Return the data in a line of server-sent events, or nothing."""
    return line[5:].strip() if line.startswith(b"data:") else b""


def _read_chunk(data: bytes, whole: Completion) -> Reply | None:
    """Add a chunk to the completion. Return the failure if it tells of one."""
    try:
        chunk = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError:
        return malformed("a line of its stream is not JSON")
    if isinstance(chunk, dict) and chunk.get("error"):
        return _failure(chunk["error"])
    whole.add(chunk)
    return None


def _failure(error: Any) -> Reply:
    """Return the failure that a stream ends with. Its `code` is a status, if it is a number."""
    code = error.get("code") if isinstance(error, dict) else None
    its_fault = isinstance(code, int) and 400 <= code < 500 and code not in (408, 429)
    return read_error({**error, "retryable": False} if its_fault else error)
