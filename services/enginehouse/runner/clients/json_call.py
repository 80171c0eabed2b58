"""The client of any server that takes and answers JSON. JMESPath makes the request of a job, and its result of the answer.

Decision, 2026-11-26: expressions are evaluated in a bounded process, always. They come from engine.yaml and may be
hostile, and a short one can make gigabytes of a small document: `[@,@]` doubles it, as often as it is written.
"""

from collections.abc import Mapping
from typing import Any

import aiohttp
import jmespath
import pydantic_core
from jmespath.exceptions import JMESPathError

from enginehouse.contracts.protocols import JsonCall
from enginehouse.runner.clients.answers import bounded, malformed, read_computed, read_document
from enginehouse.runner.clients.base import Health, Prediction, Reply
from enginehouse.runner.clients.ready_made import ReadyMadeServer
from enginehouse.runner.clients.wire import Wire
from enginehouse.runner.outcome import Rejected, Succeeded
from enginehouse.runner.schema import Description

REQUEST_MAX_BYTES = 64 * 1024 * 1024
"""Most bytes of a request, which is as much as an input can have."""
_REASON_MAX_CHARS = 300


class JsonEngine(ReadyMadeServer):
    """One replica of such a server."""

    def __init__(self, wire: Wire, options: JsonCall) -> None:
        super().__init__(wire)
        self._options = options

    async def predict(self, prediction: Prediction) -> Reply:
        """Send what `request` makes of the job, and return what `result` makes of the answer."""
        options, wire = self._options, self._wire
        body = await wire.elsewhere.make(prediction, request_body, options.request, always=True)
        if not isinstance(body, bytes):
            return body

        async def read(response: aiohttp.ClientResponse) -> Reply:
            return await wire.read_whole(response, prediction, read_selected, options.result, always_elsewhere=True)

        return await wire.ask(options.path, body, read, traceparent=prediction.traceparent, method=options.method)

    async def health(self) -> Health:
        """GET the route for it."""
        return (await self._wire.probe(self._options.health))[0]

    async def describe(self) -> Description:
        """Return an empty description: the server's own speaks of its requests, not of inputs."""
        return Description()


def request_body(data: Any, job_id: str, parameters: Mapping[str, Any] | None, expression: str) -> bytes | Rejected:
    """Return what the expression makes of a job."""
    try:
        body = jmespath.search(expression, {"data": data, "id": job_id, "parameters": parameters or {}})
    except JMESPathError as error:
        return Rejected(f"the engine's json.request cannot be made of this input: {_reason(error)}")
    if body is None:
        return Rejected("the engine's json.request finds nothing in this input")
    made = pydantic_core.to_json(body)
    if len(made) > REQUEST_MAX_BYTES:
        return Rejected(
            f"the engine's json.request makes {len(made)} bytes of this input; {REQUEST_MAX_BYTES} are allowed"
        )
    return made


def read_selected(body: bytes, limit: int, expression: str) -> Reply:
    """Read a 2xx body, and return what the expression finds in it."""
    answer = read_document(body, len(body))
    if not isinstance(answer, Succeeded):
        return answer
    try:
        found = jmespath.search(expression, answer.output)
    except JMESPathError as error:
        return malformed(f"json.result cannot be made of it: {_reason(error)}")
    if found is None:
        return malformed("json.result finds nothing in it")
    return read_computed(found, limit)


def _reason(error: JMESPathError) -> str:
    return bounded(" ".join(str(error).split()), _REASON_MAX_CHARS)
