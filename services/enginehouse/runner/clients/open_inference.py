"""The client of a server of the Open Inference Protocol v2 over REST, such as MLServer, Triton or KServe.

A job's input is the document of an infer request, and its result is that of the answer: the bodies, except that the binary
data of a tensor is base64 text under `raw`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import pydantic_core

from enginehouse.contracts.protocols import OpenInference
from enginehouse.open_inference.bodies import HEADER, body_of, header_length, take_binary
from enginehouse.open_inference.tensors import FORMS, NotThisProtocol
from enginehouse.runner.clients.answers import malformed, read_computed, read_document
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
        made = await self._wire.elsewhere.make(prediction, infer_body)
        if not isinstance(made, InferBody):
            return made

        async def read(response: aiohttp.ClientResponse) -> Reply:
            length = response.headers.get(HEADER)
            return await self._wire.read_whole(response, prediction, read_infer_answer, length)

        headers = None if made.head is None else {HEADER: str(made.head), "Content-Type": "application/octet-stream"}
        return await self._wire.ask(
            f"{self._model}/infer", made.body, read, traceparent=prediction.traceparent, headers=headers
        )

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


class InferBody(NamedTuple):
    """The body of an infer request."""

    body: bytes
    head: int | None
    """Bytes of its JSON, if binary data follows it."""


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


def infer_body(data: Any, job_id: str, parameters: Mapping[str, Any] | None) -> InferBody | Rejected:
    """Return the body of an infer request."""
    document = infer_input(data, job_id, parameters)
    if isinstance(document, Rejected):
        return document
    try:
        return InferBody(*body_of(document, "inputs"))
    except NotThisProtocol as error:
        return Rejected(str(error))


def read_infer_answer(body: bytes, limit: int, length: str | None = None) -> Reply:
    """Read a 2xx body as the answer to an infer request. `length` is its header with the size of its JSON."""
    if length is not None:
        return _read_binary(body, limit, length)
    reply = read_document(body, limit)
    if isinstance(reply, Succeeded) and not isinstance(_outputs_of(reply.output), list):
        return malformed('it is JSON without "outputs", a list of tensors')
    return reply


def _read_binary(body: bytes, limit: int, length: str) -> Reply:
    try:
        head = header_length(length, len(body))
        document = pydantic_core.from_json(body[:head], allow_inf_nan=False)
        if not isinstance(_outputs_of(document), list):
            return malformed('it is JSON without "outputs", a list of tensors')
        take_binary(document, "outputs", body[head:])
    except NotThisProtocol as error:
        return malformed(str(error))
    except ValueError:
        return malformed("its head is not JSON")
    return read_computed(document, limit)


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
        "required": ["name", "shape", "datatype"] if with_values else ["name"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"enum": list(FORMS)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": {"type": "array"},
            "raw": {"type": "string", "contentEncoding": "base64"},
            "parameters": {"type": "object"},
        },
    }
    if with_values:
        items["anyOf"] = [{"required": ["data"]}, {"required": ["raw"]}]
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
    if tensor.get("datatype") in FORMS:
        own["datatype"] = {"const": tensor["datatype"]}
    shape = tensor.get("shape")
    if isinstance(shape, list) and shape and all(type(size) is int for size in shape):
        sizes = [{"const": size} if size >= 0 else {} for size in shape]
        own["shape"] = {"minItems": len(shape), "maxItems": len(shape), "prefixItems": sizes}
    return own
