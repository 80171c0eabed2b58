"""The client of a server of the Open Inference Protocol v2 over REST, such as MLServer, Triton or KServe.

A job's input is the body of an infer request, and its result is the body of the answer.
"""

from collections.abc import Mapping
from typing import Any

import aiohttp
import pydantic_core

from enginehouse.contracts.protocols import OpenInference
from enginehouse.open_inference import CONTENTS
from enginehouse.runner.clients.answers import malformed, read_document
from enginehouse.runner.clients.base import Health, Prediction, Reply
from enginehouse.runner.clients.ready_made import ReadyMadeServer
from enginehouse.runner.clients.wire import Wire
from enginehouse.runner.outcome import Rejected, Succeeded
from enginehouse.runner.schema import Description

_TENSORS_MAX = 64
"""Metadata of more inputs or outputs is not made a schema: it would not fit into a card."""


class OpenInferenceEngine(ReadyMadeServer):
    """One replica of a server that has the model."""

    def __init__(self, wire: Wire, options: OpenInference) -> None:
        super().__init__(wire)
        version = f"/versions/{options.version}" if options.version else ""
        self._model = f"/v2/models/{options.model}{version}"

    async def predict(self, prediction: Prediction) -> Reply:
        """POST …/infer, and return the answer as the result."""
        body = await self._wire.elsewhere.make(prediction, infer_body)
        if not isinstance(body, bytes):
            return body

        async def read(response: aiohttp.ClientResponse) -> Reply:
            return await self._wire.read_whole(response, prediction, read_infer_answer)

        return await self._wire.ask(f"{self._model}/infer", body, read, traceparent=prediction.traceparent)

    async def health(self) -> Health:
        """Ask whether the server is ready, and then whether the model is."""
        health, _, _ = await self._wire.probe("/v2/health/ready")
        return (await self._wire.probe(f"{self._model}/ready"))[0] if health.ok else health

    async def describe(self) -> Description:
        """Make schemas of the model's metadata."""
        try:
            metadata = pydantic_core.from_json(await self._wire.describe(self._model) or b"")
        except ValueError:
            return Description()
        return described_by_metadata(metadata) if isinstance(metadata, dict) else Description()


def infer_input(data: Any, job_id: str, parameters: Mapping[str, Any] | None) -> dict[str, Any] | Rejected:
    """Return the infer request of a job. Its own `parameters` win over those of the job."""
    if not isinstance(data, dict) or not isinstance(data.get("inputs"), list):
        return Rejected(
            'inputs: is missing: the input must be an infer request, {"inputs": [{name, shape, datatype, data}]}'
        )
    own = data.get("parameters")
    if not parameters or not isinstance(own, dict | None):
        return {"id": job_id, **data}
    return {"id": job_id, **data, "parameters": {**parameters, **(own or {})}}


def infer_body(data: Any, job_id: str, parameters: Mapping[str, Any] | None) -> bytes | Rejected:
    """Return the body of an infer request."""
    body = infer_input(data, job_id, parameters)
    return body if isinstance(body, Rejected) else pydantic_core.to_json(body)


def read_infer_answer(body: bytes, limit: int) -> Reply:
    """Read a 2xx body as the answer to an infer request."""
    reply = read_document(body, limit)
    if isinstance(reply, Succeeded) and not isinstance(_outputs_of(reply.output), list):
        return malformed('it is JSON without "outputs", a list of tensors')
    return reply


def _outputs_of(answer: Any) -> Any:
    return answer.get("outputs") if isinstance(answer, dict) else None


def described_by_metadata(metadata: Mapping[str, Any]) -> Description:
    """Return the schemas of a model's infer requests and answers, by its metadata.

    A request may leave inputs out, because metadata does not tell which of them are optional.
    """
    return Description(
        {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "inputs": {"type": "array", "minItems": 1, **_tensors(metadata.get("inputs"), with_values=True)},
                "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            },
        },
        {
            "type": "object",
            "required": ["outputs"],
            "properties": {
                "model_name": {"type": "string"},
                "outputs": {"type": "array", **_tensors(metadata.get("outputs"), with_values=False)},
            },
        },
    )


def _tensors(described: Any, *, with_values: bool) -> dict[str, Any]:
    """Return the keywords for a list of tensors: each has a known name, and the datatype and shape that belong to it."""
    known = [tensor for tensor in described if _is_tensor(tensor)] if isinstance(described, list) else []
    items: dict[str, Any] = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"] if with_values else ["name"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"enum": list(CONTENTS)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    }
    if not known or len(known) > _TENSORS_MAX:
        return {"items": items}
    items["properties"]["name"] = {"enum": [tensor["name"] for tensor in known]}
    items["allOf"] = [
        {"if": {"properties": {"name": {"const": tensor["name"]}}}, "then": {"properties": _own(tensor)}}
        for tensor in known
    ]
    return {"maxItems": len(known), "items": items}


def _is_tensor(tensor: Any) -> bool:
    return isinstance(tensor, dict) and isinstance(tensor.get("name"), str)


def _own(tensor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schemas of a tensor's datatype and shape. A size of -1 may be any."""
    own: dict[str, Any] = {}
    if tensor.get("datatype") in CONTENTS:
        own["datatype"] = {"const": tensor["datatype"]}
    shape = tensor.get("shape")
    if isinstance(shape, list) and shape and all(type(size) is int for size in shape):
        sizes = [{"const": size} if size >= 0 else {} for size in shape]
        own["shape"] = {"minItems": len(shape), "maxItems": len(shape), "prefixItems": sizes}
    return own
