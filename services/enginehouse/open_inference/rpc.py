"""Turns messages of the protocol over gRPC into documents, and documents into messages."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from enginehouse.open_inference.messages import MESSAGES
from enginehouse.open_inference.tensors import FLOATS, NotThisProtocol, Tensor, flat, read_parameters, read_tensor

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of a message that holds the values of each datatype. The others travel as raw contents only."""
_BINARY = ("binary_data", "binary_data_output", "binary_data_size")
"""Parameters of REST that say in which form tensors travel. Over gRPC they mean nothing, and some servers refuse them."""


def infer_request(body: Mapping[str, Any], model: str, version: str | None) -> Any:
    """Return a request to infer as a message. `body` is its document; raise NotThisProtocol if it is not one."""
    if not isinstance(body.get("inputs"), list):
        raise NotThisProtocol("inputs: must be a list of tensors")
    request = MESSAGES["ModelInferRequest"](model_name=model, model_version=version or "", id=str(body.get("id") or ""))
    set_parameters(request.parameters, body.get("parameters"), "parameters")
    tensors = [read_tensor(tensor, f"inputs[{number}]") for number, tensor in enumerate(body["inputs"])]
    add_tensors(request.inputs, request.raw_input_contents, tensors, "inputs")
    outputs = body.get("outputs")
    if not isinstance(outputs, list | None):
        raise NotThisProtocol("outputs: must be a list of names")
    for number, output in enumerate(outputs or ()):
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise NotThisProtocol(f"outputs[{number}]: must name an output")
        wanted = request.outputs.add(name=output["name"])
        set_parameters(wanted.parameters, output.get("parameters"), f"outputs[{number}].parameters")
    return request


def add_tensors(into: Any, raw_contents: Any, tensors: Sequence[Tensor], where: str, *, raw: bool = False) -> None:
    """Add tensors to a message: all as raw contents if one of them is raw or has no other form, or with `raw`."""
    raw = raw or any(tensor.raw is not None or tensor.datatype not in CONTENTS for tensor in tensors)
    for number, tensor in enumerate(tensors):
        place = f"{where}[{number}]"
        made = into.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        set_parameters(made.parameters, tensor.parameters, f"{place}.parameters")
        if raw:
            raw_contents.append(tensor.content(place))
            continue
        values: Any = list(flat(tensor.data or []))
        try:
            if tensor.datatype == "BYTES":
                values = [value.encode() for value in values]
            getattr(made.contents, CONTENTS[tensor.datatype]).extend(values)
        except (TypeError, ValueError, AttributeError, OverflowError):
            raise NotThisProtocol(f"{place}.data: a value is not of datatype {tensor.datatype}") from None


def set_parameters(field: Any, parameters: Any, where: str) -> None:
    """Set the parameters of a message; raise NotThisProtocol for what a message cannot hold."""
    for name, value in read_parameters(parameters, where).items():
        if name in _BINARY:
            continue
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}.get(type(value))
        if kind == "int64_param" and 2**63 <= value < 2**64:
            kind = "uint64_param"
        elif kind is None or (type(value) is int and not -(2**63) <= value < 2**63):
            raise NotThisProtocol(f"{where}.{name[:100]}: must be a text, a number, true or false")
        setattr(field[name], kind, value)


def tensors_in(messages: Sequence[Any], raw: Sequence[bytes], where: str) -> list[Tensor]:
    """Return the tensors of a message, raw ones as such; raise NotThisProtocol if it contradicts itself."""
    if raw and len(raw) != len(messages):
        raise NotThisProtocol(f"raw contents: there are {len(raw)} for {len(messages)} {where}")
    return [
        _tensor(tensor, raw[number] if raw else None, f"{where}[{number}]") for number, tensor in enumerate(messages)
    ]


def _tensor(message: Any, raw: bytes | None, where: str) -> Tensor:
    datatype, parameters = message.datatype, read_message_parameters(message.parameters)
    if datatype not in CONTENTS and datatype not in FLOATS:
        raise NotThisProtocol(f"{where}.datatype: {datatype[:20]!r} is no datatype")
    if any(size < 0 for size in message.shape):
        raise NotThisProtocol(f"{where}.shape: must be a list of whole numbers")
    if raw is not None and message.HasField("contents") and message.contents.ListFields():
        raise NotThisProtocol(f"{where}: has contents beside raw contents")
    if raw is None and datatype not in CONTENTS:
        if math.prod(message.shape):
            raise NotThisProtocol(f"{where}: {datatype} has no other form than raw contents")
        raw = b""
    made = Tensor(message.name, datatype, tuple(message.shape), raw=raw, parameters=parameters)
    return made if raw is not None else _with_data(made, list(getattr(message.contents, CONTENTS[datatype])))


def _with_data(tensor: Tensor, values: list[Any]) -> Tensor:
    """Return the tensor with its values as JSON if JSON can hold them all, and as raw bytes otherwise."""
    name, datatype, shape, parameters = tensor.name, tensor.datatype, tensor.shape, tensor.parameters
    as_json: list[Any] | None = values
    if datatype == "BYTES":
        try:
            as_json = [value.decode() for value in values]
        except UnicodeDecodeError:
            as_json = None
    elif datatype in FLOATS and not all(map(math.isfinite, values)):
        as_json = None
    if as_json is not None:
        return Tensor(name, datatype, shape, data=as_json, parameters=parameters)
    packed = Tensor(name, datatype, shape, data=values).content(name[:100])
    return Tensor(name, datatype, shape, raw=packed, parameters=parameters)


def read_message_parameters(field: Any) -> dict[str, Any]:
    """Return the parameters of a message."""
    found = {}
    for name, value in field.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, kind) if kind else None
    return found
