"""The client of a server of the Open Inference Protocol v2 over gRPC. Inputs and results are the JSON of REST."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from enginehouse.checkers import Checkers
from enginehouse.contracts.cloud_event import valid_traceparent
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.protocols import OpenInference
from enginehouse.open_inference.bodies import Binary, wanted_binary
from enginehouse.open_inference.messages import MESSAGES, SERVICE
from enginehouse.open_inference.rpc import infer_request, read_message_parameters, tensors_in
from enginehouse.open_inference.tensors import NotThisProtocol
from enginehouse.runner.clients.answers import (
    MESSAGE_MAX_CHARS,
    bounded,
    malformed,
    read_computed,
    too_large,
    without_trace,
)
from enginehouse.runner.clients.base import Busy, Closed, Health, Prediction, Reply, Unreachable
from enginehouse.runner.clients.elsewhere import Elsewhere
from enginehouse.runner.clients.open_inference import described_by_metadata, infer_input
from enginehouse.runner.clients.wire import SIDE_CALL_SECONDS, Limits, nothing_listens
from enginehouse.runner.outcome import Failed, Rejected
from enginehouse.runner.schema import Description

_REQUEST_MAX_BYTES = 256 * 1024 * 1024
"""Most bytes of a request: an input of 64 MiB as JSON, whose values may be one digit each, in FP64."""
_BUSY_SECONDS = 1.0
_ITS_FAULT = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""Codes of what would be a status of 4xx over HTTP."""
# The codes do not tell whether the server said so, or nobody could be asked.
_NOT_CONNECTED = ("failed to connect", "connections to all backends failing", "handshake", "resolution failed")
_BROKEN = (
    "cancelling all calls",
    "socket closed",
    "connection reset",
    "broken pipe",
    "recvmsg",
    "goaway",
    "stream removed",
    "endpoint closing",
)
_TOO_LARGE = "received message larger than max"
"""gRPC says so behind `client:` of what came here, and otherwise of what arrived at the server."""


class OpenInferenceGrpcEngine:
    """One replica of a server that has the model. Made inside the event loop that uses it."""

    def __init__(self, url: str, options: OpenInference, checkers: Checkers, limits: Limits) -> None:
        self._address = url.rstrip("/").removeprefix("http://")
        self._model, self._version = options.model, options.version
        self._elsewhere = Elsewhere(checkers)
        self._limits = limits
        # As over HTTP: no proxy of the environment, no configuration by DNS, nothing is unpacked, and no second try of ours.
        self._channel = grpc.aio.insecure_channel(
            self._address,
            options=[
                ("grpc.max_receive_message_length", limits.predict_max_bytes),
                ("grpc.max_send_message_length", _REQUEST_MAX_BYTES),
                ("grpc.enable_http_proxy", 0),
                ("grpc.enable_retries", 0),
                ("grpc.service_config_disable_resolution", 1),
                ("grpc.per_message_decompression", 0),
                ("grpc.compression_enabled_algorithms_bitset", 1),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 5_000),
                ("grpc.max_reconnect_backoff_ms", 1_000),
                ("grpc.primary_user_agent", "enginehouse-runner"),
            ],
        )

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._address

    @property
    def warning(self) -> str | None:
        """Nothing: the protocol has no place for it."""
        return None

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def cancel(self, job_id: str) -> bool:
        """Return False: the protocol has no call for it."""
        return False

    async def predict(self, prediction: Prediction) -> Reply:
        """Call ModelInfer, and return the answer as the result."""
        call = await self._elsewhere.make(prediction, infer_call, self._model, self._version)
        if not isinstance(call, InferCall):
            return call
        traceparent = valid_traceparent(prediction.traceparent)
        try:
            body = await self._call(
                "ModelInfer", call.request, metadata=[("traceparent", traceparent)] if traceparent else None
            )
        except grpc.aio.AioRpcError as error:
            return self._meaning_of(error, self._limits.of(prediction))
        limit = self._limits.of(prediction)
        reply: Reply = await self._elsewhere.read([prediction], read_infer_bytes, body, limit, call.binary)
        return reply

    async def _call(self, method: str, request: bytes, **options: Any) -> bytes:
        call: Any = self._channel.unary_unary(f"/{SERVICE}/{method}")  # Without a serializer it takes and gives bytes.
        answer: bytes = await call(request, **options)
        return answer

    def _meaning_of(self, error: grpc.aio.AioRpcError, limit: int) -> Reply:
        code, said = error.code(), bounded(without_trace(error.details() or ""), MESSAGE_MAX_CHARS)
        plain = said.lower()
        if code is grpc.StatusCode.UNAVAILABLE and any(text in plain for text in _NOT_CONNECTED):
            return Unreachable(f"the engine at {self._address} cannot be reached: {said[:200]}")
        if code is grpc.StatusCode.UNAVAILABLE and any(text in plain for text in _BROKEN):
            return Closed("the engine closed the connection before it had answered")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and f"client: {_TOO_LARGE}" in plain:
            return too_large(f"more than {self._limits.predict_max_bytes} bytes", limit)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in plain:
            return Rejected(f"the input is larger than the engine takes: {said}")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return Busy(_BUSY_SECONDS)
        if code in _ITS_FAULT:
            return Rejected(said or f"the engine refused the input with {code.name}")
        return Failed(f"the engine answered {code.name}" + (f": {said}" if said else ""))

    async def health(self) -> Health:
        """Ask whether the server is ready, and then whether the model is."""
        health = await self._ask_ready("ServerReady", {})
        return await self._ask_ready("ModelReady", self._named) if health.ok else health

    @property
    def _named(self) -> dict[str, str]:
        return {"name": self._model, "version": self._version or ""}

    async def _ask_ready(self, method: str, request: dict[str, str]) -> Health:
        try:
            body = await self._call(
                method, MESSAGES[f"{method}Request"](**request).SerializeToString(), timeout=SIDE_CALL_SECONDS
            )
            ready = MESSAGES[f"{method}Response"].FromString(body).ready
        except grpc.aio.AioRpcError as error:
            return self._unwell(method, error)
        except DecodeError:
            return Health(
                ok=False, fault=f"{method} at {self._address} cannot be read: it must answer as the protocol says"
            )
        said = f"{method} at {self._address} answers that it is not ready"
        return Health(ok=ready, fault=None if ready else said)

    def _unwell(self, method: str, error: grpc.aio.AioRpcError) -> Health:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            said = f"{method} at {self._address} gives no answer within {SIDE_CALL_SECONDS:g} s"
            return Health(ok=False, answered=False, fault=said)
        if isinstance(self._meaning_of(error, 0), Unreachable):
            return Health(ok=False, fault=nothing_listens(self._address))
        said = bounded(error.details() or "", 200)
        return Health(
            ok=False, fault=f"{method} at {self._address} answers {error.code().name} ({said}): it must answer OK"
        )

    async def describe(self) -> Description:
        """Make schemas of the model's metadata."""
        request = MESSAGES["ModelMetadataRequest"](**self._named).SerializeToString()
        try:
            body = await self._call("ModelMetadata", request, timeout=5 * SIDE_CALL_SECONDS)
            metadata = MESSAGES["ModelMetadataResponse"].FromString(body)
        except DecodeError:
            return Description()
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED):
                return Description()
            raise Unavailable(f"the engine at {self._address} does not show the metadata of its model") from error
        return described_by_metadata({"inputs": _tensors(metadata.inputs), "outputs": _tensors(metadata.outputs)})


class InferCall(NamedTuple):
    """A call of ModelInfer."""

    request: bytes
    binary: Binary
    """In which form its outputs are wanted."""


def infer_call(
    data: Any, job_id: str, parameters: Mapping[str, Any] | None, model: str, version: str | None
) -> InferCall | Rejected:
    """Return the call that a job asks for."""
    document = infer_input(data, job_id, parameters)
    if isinstance(document, Rejected):
        return document
    try:
        return InferCall(infer_request(document, model, version).SerializeToString(), wanted_binary(document))
    except NotThisProtocol as error:
        return Rejected(str(error))


def read_infer_bytes(body: bytes, limit: int, binary: Binary) -> Reply:
    """Read a serialized answer to an infer request."""
    try:
        return read_computed(_answer(MESSAGES["ModelInferResponse"].FromString(body), binary), limit)
    except DecodeError:
        return malformed("it is no answer to ModelInfer")
    except NotThisProtocol as error:
        return malformed(str(error))


def _answer(message: Any, binary: Binary) -> dict[str, Any]:
    """Return the document of an answer. Outputs are raw if they are wanted so, or if JSON cannot hold them."""
    answer = {name: getattr(message, name) for name in ("model_name", "model_version", "id") if getattr(message, name)}
    if message.parameters:
        answer["parameters"] = read_message_parameters(message.parameters)
    tensors = tensors_in(message.outputs, message.raw_output_contents, "outputs")
    answer["outputs"] = [
        (tensor.as_raw("outputs") if binary.wants(tensor.name) else tensor.as_json("outputs")).document()
        for tensor in tensors
    ]
    return answer


def _tensors(described: Any) -> list[dict[str, Any]]:
    return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in described]
