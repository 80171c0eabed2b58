"""Reads infer requests as jobs, and writes the answers of the jobs' outputs.

Its functions are pure, because large bodies are read and written in other processes, which load this module.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pydantic_core
from google.protobuf.message import DecodeError

from enginehouse.contracts.errors import InvalidInput, RequestError
from enginehouse.contracts.json_text import read_json, wire_json
from enginehouse.gateway.inference.plain import CONTENT_TYPE, input_of, outputs_of
from enginehouse.open_inference.bodies import Binary, body_of, header_length, take_binary, wanted_binary
from enginehouse.open_inference.messages import MESSAGES
from enginehouse.open_inference.rpc import add_tensors, read_message_parameters, set_parameters, tensors_in
from enginehouse.open_inference.tensors import (
    TENSORS_MAX,
    NotForJson,
    NotThisProtocol,
    Tensor,
    read_parameters,
    read_tensor,
)

_AT_ONCE_MAX_BYTES = 16 * 1024
"""Inputs of a request up to this size are kept as values, and those of larger ones as JSON text."""
_NOT_FOR_ENGINES = ("binary_data_output", CONTENT_TYPE)
"""Parameters of a request that its own tensors are about."""
_NAME_MAX_CHARS = 256
JOB_PARAMETER = "job_id"
"""The parameter of an answer that names its job."""


class Model(NamedTuple):
    """What reading and writing needs to know of an engine."""

    name: str
    """As the request gives it."""
    speaks_tensors: bool
    schema: Mapping[str, Any]
    """Of its input when a request is read, and of its output when an answer is written."""


class Infer(NamedTuple):
    """An infer request as a job."""

    id: str | None
    input: Any
    input_json: bytes | None
    """The input as JSON text instead, if it is large."""
    parameters: dict[str, Any] | None
    """For the engine, beside its input."""
    outputs: tuple[str, ...]
    """Names of the outputs that are wanted; none: all."""
    binary: Binary
    """In which form they are wanted."""

    def without_input(self) -> "Infer":
        """Return what writing the answer needs."""
        return self._replace(input=None, input_json=None)


class Ended(NamedTuple):
    """What an answer says beside its tensors."""

    job_id: str
    version: str | None
    infer_id: str | None
    outputs: tuple[str, ...]
    binary: Binary


def read_rest(body: bytes, length: str | None, model: Model) -> Infer:
    """Read the body of an infer request. `length` is its header Inference-Header-Content-Length.

    Raise RequestError, naming the fault.
    """
    try:
        head = header_length(length, len(body))
        document = read_json(body[:head], "The body" if head == len(body) else "The head of the body")
        if not isinstance(document, dict):
            raise NotThisProtocol("The body: must be an object with inputs")
        if length is not None:
            take_binary(document, "inputs", body[head:])
        _check_shape(document)
        return _infer(document, model, size=len(body))
    except NotThisProtocol as error:
        raise InvalidInput(str(error)) from None


def read_rpc(body: bytes, model: Model) -> Infer:
    """Read a serialized ModelInferRequest. Raise RequestError, naming the fault."""
    try:
        message = MESSAGES["ModelInferRequest"].FromString(body)
        document: dict[str, Any] = {"id": message.id} if message.id else {}
        parameters = read_message_parameters(message.parameters)
        if len(message.inputs) > TENSORS_MAX or len(message.outputs) > TENSORS_MAX:
            raise NotThisProtocol(f"inputs: a request may have {TENSORS_MAX} inputs and outputs")
        tensors = tensors_in(message.inputs, message.raw_input_contents, "inputs")
        document["inputs"] = [tensor.document() for tensor in tensors]
        if message.outputs:
            document["outputs"] = [_asked(output) for output in message.outputs]
        if message.raw_input_contents:
            # Whoever sends raw bytes reads raw bytes, as with other servers of the protocol.
            parameters["binary_data_output"] = True
        if parameters:
            document["parameters"] = parameters
        _check_shape(document)
        return _infer(document, model, size=len(body))
    except DecodeError:
        raise RequestError("The message cannot be read as a ModelInferRequest") from None
    except NotThisProtocol as error:
        raise InvalidInput(str(error)) from None


def model_of(body: bytes) -> tuple[str, str]:
    """Return the model's name and version in a serialized ModelInferRequest; raise RequestError if it is none."""
    try:
        message = MESSAGES["ModelInferRequest"].FromString(body)
    except DecodeError:
        raise RequestError("The message cannot be read as a ModelInferRequest") from None
    return message.model_name, message.model_version


def _asked(output: Any) -> dict[str, Any]:
    parameters = read_message_parameters(output.parameters)
    return {"name": output.name, "parameters": parameters} if parameters else {"name": output.name}


def _check_shape(document: Mapping[str, Any]) -> None:
    """Raise NotThisProtocol unless a request has the fields of one, each of its kind and within bounds."""
    inputs, outputs, infer_id = document.get("inputs"), document.get("outputs"), document.get("id")
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= TENSORS_MAX:
        raise NotThisProtocol(f"inputs: must be a list of 1 to {TENSORS_MAX} tensors")
    if not isinstance(outputs, list | None) or len(outputs or ()) > TENSORS_MAX:
        raise NotThisProtocol(f"outputs: must be a list of at most {TENSORS_MAX} names")
    for number, output in enumerate(outputs or ()):
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise NotThisProtocol(f"outputs[{number}]: must name an output")
        read_parameters(output.get("parameters"), f"outputs[{number}].parameters")
    if infer_id is not None and not (isinstance(infer_id, str) and len(infer_id) <= _NAME_MAX_CHARS):
        raise NotThisProtocol(f"id: must be text of at most {_NAME_MAX_CHARS} characters")
    read_parameters(document.get("parameters"), "parameters")


def _infer(document: dict[str, Any], model: Model, size: int) -> Infer:
    tensors = [read_tensor(tensor, f"inputs[{number}]") for number, tensor in enumerate(document["inputs"])]
    for number, tensor in enumerate(tensors):
        if len(tensor.name) > _NAME_MAX_CHARS:
            raise NotThisProtocol(f"inputs[{number}].name: has more than {_NAME_MAX_CHARS} characters")
        tensor.check(f"inputs[{number}]")
    asked = document.get("parameters") or {}
    parameters = None
    if model.speaks_tensors:
        value: Any = {key: document[key] for key in ("id", "inputs", "outputs", "parameters") if document.get(key)}
    else:
        value = input_of(tensors, model.schema, asked.get(CONTENT_TYPE))
        parameters = {key: asked[key] for key in asked if key not in _NOT_FOR_ENGINES} or None
    is_large = size > _AT_ONCE_MAX_BYTES
    return Infer(
        id=document.get("id"),
        input=None if is_large else value,
        input_json=wire_json("input", value) if is_large else None,
        parameters=parameters,
        outputs=tuple(output["name"] for output in document.get("outputs") or ()),
        binary=wanted_binary(document),
    )


def write_rest(output: bytes, model: Model, ended: Ended) -> tuple[bytes, int | None]:
    """Return the body of an answer whose job has this output, as JSON text, and the size of its JSON part if it has others.

    Raise InvalidInput for an output that the engine does not have, or that cannot be given in the form wanted.
    """
    answer, tensors = _answer(output, model, ended)
    answer["outputs"] = [_in_form(tensor, ended.binary).document() for tensor in tensors]
    return body_of(answer, "outputs")


def write_rpc(output: bytes, model: Model, ended: Ended) -> bytes:
    """Return the answer as a serialized ModelInferResponse. Raise as `write_rest` does."""
    answer, tensors = _answer(output, model, ended)
    message = MESSAGES["ModelInferResponse"](
        model_name=answer["model_name"], model_version=answer.get("model_version") or "", id=answer["id"]
    )
    try:
        set_parameters(
            message.parameters, {k: v for k, v in answer["parameters"].items() if v is not None}, "parameters"
        )
        add_tensors(message.outputs, message.raw_output_contents, tensors, "outputs", raw=ended.binary.default)
    except NotThisProtocol as error:
        raise UnusableAnswer(str(error)) from None
    written: bytes = message.SerializeToString()
    return written


class UnusableAnswer(RequestError):
    """The engine's answer has no form in the protocol."""

    code = "MALFORMED_ANSWER"


def _answer(output: bytes, model: Model, ended: Ended) -> tuple[dict[str, Any], list[Tensor]]:
    """Return an answer without its tensors, and the tensors that are wanted."""
    value = pydantic_core.from_json(output)
    parameters: dict[str, Any] = {}
    try:
        if model.speaks_tensors:
            found = value.get("outputs") if isinstance(value, dict) else None
            if not isinstance(found, list):
                raise NotThisProtocol("outputs: the server answered none")
            tensors = [read_tensor(tensor, f"outputs[{number}]") for number, tensor in enumerate(found)]
            parameters = dict(read_parameters(value.get("parameters"), "parameters"))
        else:
            tensors = _wanted(outputs_of(value, model.schema), ended.outputs)
    except NotThisProtocol as error:
        raise UnusableAnswer(str(error)) from None
    answer = {"model_name": model.name, "model_version": ended.version, "id": ended.infer_id or ended.job_id}
    return {**answer, "parameters": {**parameters, JOB_PARAMETER: ended.job_id}}, tensors


def _wanted(tensors: list[Tensor], names: tuple[str, ...]) -> list[Tensor]:
    if not names:
        return tensors
    by_name = {tensor.name: tensor for tensor in tensors}
    check_outputs(names, by_name)
    return [by_name[name] for name in names]


def check_outputs(names: Collection[str], known: Collection[str]) -> None:
    """Raise InvalidInput, naming those there are, if an output that is wanted is none of them."""
    if missing := [name for name in names if name not in known]:
        raise InvalidInput(f"outputs: there is no {missing[0][:100]!r}; there are {', '.join(known)[:300]}")


def _in_form(tensor: Tensor, binary: Binary) -> Tensor:
    """Return an output in the form that is wanted."""
    where = f"outputs: {tensor.name[:100]}"
    try:
        if binary.wants(tensor.name):
            return tensor.as_raw(where)
        return Tensor(
            tensor.name, tensor.datatype, tensor.shape, data=tensor.values(where), parameters=tensor.parameters
        )
    except NotForJson as error:
        raise InvalidInput(f"{error}: ask for it with the parameter binary_data") from None
    except NotThisProtocol as error:
        raise UnusableAnswer(str(error)) from None
