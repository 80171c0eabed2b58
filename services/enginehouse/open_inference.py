"""The messages of the Open Inference Protocol v2 over gRPC, and their form as JSON, which is the protocol over REST.

They are built here, in a pool of their own: generated code would clash with the stubs of any client library of the same
protocol in the same process.
"""

import array
import itertools
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"

_FIELDS = {
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1, string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ModelMetadataRequest": "string name = 1, string version = 2",
    "ModelMetadataResponse": "string name = 1, repeated string versions = 2, string platform = 3, "
    "repeated ModelMetadataResponse.TensorMetadata inputs = 4, "
    "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    "ModelMetadataResponse.TensorMetadata": "string name = 1, string datatype = 2, repeated int64 shape = 3",
    "InferParameter": "bool bool_param = 1, int64 int64_param = 2, string string_param = 3, double double_param = 4, "
    "uint64 uint64_param = 5",
    "InferTensorContents": "repeated bool bool_contents = 1, repeated int32 int_contents = 2, "
    "repeated int64 int64_contents = 3, repeated uint32 uint_contents = 4, repeated uint64 uint64_contents = 5, "
    "repeated float fp32_contents = 6, repeated double fp64_contents = 7, repeated bytes bytes_contents = 8",
    "ModelInferRequest": "string model_name = 1, string model_version = 2, string id = 3, map parameters = 4, "
    "repeated ModelInferRequest.InferInputTensor inputs = 5, "
    "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6, repeated bytes raw_input_contents = 7",
    "ModelInferRequest.InferInputTensor": "string name = 1, string datatype = 2, repeated int64 shape = 3, "
    "map parameters = 4, InferTensorContents contents = 5",
    "ModelInferRequest.InferRequestedOutputTensor": "string name = 1, map parameters = 2",
    "ModelInferResponse": "string model_name = 1, string model_version = 2, string id = 3, map parameters = 4, "
    "repeated ModelInferResponse.InferOutputTensor outputs = 5, repeated bytes raw_output_contents = 6",
    "ModelInferResponse.InferOutputTensor": "string name = 1, string datatype = 2, repeated int64 shape = 3, "
    "map parameters = 4, InferTensorContents contents = 5",
}
"""Names and numbers of the published protocol. `map` stands for `map<string, InferParameter>`."""

_FIELD = re.compile(r"(repeated )?([\w.]+) (\w+) = (\d+)")
_Proto = descriptor_pb2.FieldDescriptorProto

CONTENTS = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP16": ("", "e"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
    "BYTES": ("bytes_contents", ""),
}
"""Where the values of each datatype stand in a message, and their form (as in `struct`) in raw contents."""


class NotThisProtocol(ValueError):
    """A body is not one of the Open Inference Protocol. The message names the place, and begins with it."""


def _message_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package="inference", syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in _FIELDS.items():
        outer, _, inner = name.partition(".")
        message = made[name] = (made[outer].nested_type if inner else file.message_type).add(name=inner or outer)
        for repeated, kind, field, number in _FIELD.findall(fields):
            _add_field(message, name, bool(repeated), kind, field, int(number))
    made["InferParameter"].oneof_decl.add(name="parameter_choice")
    for field in made["InferParameter"].field:
        field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in _FIELDS}


def _add_field(message: Any, owner: str, repeated: bool, kind: str, name: str, number: int) -> None:
    field = message.field.add(name=name, number=number, label=_Proto.LABEL_OPTIONAL)
    if repeated or kind == "map":
        field.label = _Proto.LABEL_REPEATED
    if kind == "map":
        # This is how a map is written in a descriptor: entries of a nested message.
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, owner, False, "string", "key", 1)
        _add_field(entry, owner, False, "InferParameter", "value", 2)
        kind = f"{owner}.ParametersEntry"
    if kind[0].isupper():
        field.type, field.type_name = _Proto.TYPE_MESSAGE, f".inference.{kind}"
    else:
        field.type = getattr(_Proto, f"TYPE_{kind.upper()}")


MESSAGES: Mapping[str, Any] = _message_classes()
"""The class of each message, by its name."""


def infer_request(body: Mapping[str, Any], model: str, version: str | None) -> Any:
    """Return a request to infer as a message. `body` is its JSON; raise NotThisProtocol if it is not one."""
    if not isinstance(body.get("inputs"), list):
        raise NotThisProtocol("inputs: must be a list of tensors")
    request = MESSAGES["ModelInferRequest"](model_name=model, model_version=version or "", id=str(body.get("id") or ""))
    _set_parameters(request.parameters, body.get("parameters"), "parameters")
    for number, tensor in enumerate(body["inputs"]):
        _set_tensor(request, tensor, f"inputs[{number}]")
    outputs = body.get("outputs")
    if not isinstance(outputs, list | None):
        raise NotThisProtocol("outputs: must be a list of names")
    for number, output in enumerate(outputs or ()):
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise NotThisProtocol(f"outputs[{number}]: must name an output")
        wanted = request.outputs.add(name=output["name"])
        _set_parameters(wanted.parameters, output.get("parameters"), f"outputs[{number}].parameters")
    if request.raw_input_contents:
        _make_all_raw(request)
    return request


def _set_tensor(request: Any, tensor: Any, where: str) -> None:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise NotThisProtocol(f"{where}: must be a tensor with a name, a shape, a datatype and data")
    datatype, shape, data = tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
    if datatype not in CONTENTS:
        raise NotThisProtocol(f"{where}.datatype: must be one of {', '.join(CONTENTS)}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise NotThisProtocol(f"{where}.shape: must be a list of whole numbers")
    if not isinstance(data, list):
        raise NotThisProtocol(f"{where}.data: must be a list of values")
    values = list(_flat(data))
    made = request.inputs.add(name=tensor["name"], datatype=datatype, shape=shape)
    _set_parameters(made.parameters, tensor.get("parameters"), f"{where}.parameters")
    field, form = CONTENTS[datatype]
    try:
        if datatype == "BYTES":
            values = [value.encode() for value in values]
        if field:
            getattr(made.contents, field).extend(values)
        else:
            request.raw_input_contents.append(struct.pack(f"<{len(values)}{form}", *values))
    except (TypeError, ValueError, AttributeError, OverflowError, struct.error):
        raise NotThisProtocol(f"{where}.data: a value is not of datatype {datatype}") from None


def _make_all_raw(request: Any) -> None:
    """Write every input as raw contents: by the protocol, either all or none are."""
    halves = iter(list(request.raw_input_contents))
    del request.raw_input_contents[:]
    for tensor in request.inputs:
        field, form = CONTENTS[tensor.datatype]
        if not field:
            request.raw_input_contents.append(next(halves))
            continue
        values = list(getattr(tensor.contents, field))
        if tensor.datatype == "BYTES":
            raw = b"".join(struct.pack("<I", len(value)) + value for value in values)
        else:
            raw = struct.pack(f"<{len(values)}{form}", *values)
        request.raw_input_contents.append(raw)
        tensor.ClearField("contents")


def _flat(values: Any) -> Iterator[Any]:
    """Yield the values of a list that may hold lists, as a tensor may be written in JSON."""
    levels = [iter(values)]
    while levels:
        for value in levels[-1]:
            if isinstance(value, list):
                levels.append(iter(value))
                break
            yield value
        else:
            levels.pop()


def _set_parameters(field: Any, parameters: Any, where: str) -> None:
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise NotThisProtocol(f"{where}: must hold keys and values")
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}.get(type(value))
        if kind is None or (type(value) is int and not -(2**63) <= value < 2**63):
            raise NotThisProtocol(f"{where}.{name[:100]}: must be a text, a number, true or false")
        setattr(field[name], kind, value)


def infer_response(message: Any) -> dict[str, Any]:
    """Return an answer to an infer request as JSON; raise NotThisProtocol if it contradicts itself."""
    raw: Sequence[bytes] = message.raw_output_contents
    if raw and len(raw) != len(message.outputs):
        raise NotThisProtocol(f"raw_output_contents: has {len(raw)} tensors for {len(message.outputs)} outputs")
    answer = {name: getattr(message, name) for name in ("model_name", "model_version", "id") if getattr(message, name)}
    if message.parameters:
        answer["parameters"] = _parameters(message.parameters)
    answer["outputs"] = [
        _output(tensor, content) for tensor, content in itertools.zip_longest(message.outputs, raw, fillvalue=None)
    ]
    return answer


def _output(tensor: Any, raw: bytes | None) -> dict[str, Any]:
    if tensor.datatype not in CONTENTS:
        raise NotThisProtocol(f"outputs: {tensor.datatype[:20]!r} is no datatype")
    field, form = CONTENTS[tensor.datatype]
    if raw is not None:
        data = _strings(raw) if tensor.datatype == "BYTES" else _numbers(raw, form)
    else:
        data = list(getattr(tensor.contents, field)) if field else []
        if tensor.datatype == "BYTES":
            data = [value.decode("utf-8", "replace") for value in data]
    made = {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype, "data": data}
    return {**made, "parameters": _parameters(tensor.parameters)} if tensor.parameters else made


def _numbers(raw: bytes, form: str) -> list[Any]:
    size = struct.calcsize(f"<{form}")
    if len(raw) % size:
        raise NotThisProtocol(f"raw_output_contents: {len(raw)} bytes are no whole number of values")
    if form in "?e" or sys.byteorder == "big":
        return list(struct.unpack(f"<{len(raw) // size}{form}", raw))
    return array.array(form, raw).tolist()


def _strings(raw: bytes) -> list[Any]:
    found, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            raise NotThisProtocol("raw_output_contents: a text is longer than its tensor")
        found.append(raw[at + 4 : end].decode("utf-8", "replace"))
        at = end
    return found


def _parameters(field: Any) -> dict[str, Any]:
    found = {}
    for name, value in field.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, kind) if kind else None
    return found
