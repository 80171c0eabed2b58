"""The messages of the Open Inference Protocol v2 over gRPC, by the names and numbers that its authors publish.

They are built here, in a pool of their own: generated code would clash with the stubs of any client library of the same
protocol in the same process.
"""

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"

_FIELDS = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1, string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1, string version = 2, repeated string extensions = 3",
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
    "RepositoryIndexRequest": "string repository_name = 1, bool ready = 2",
    "RepositoryIndexResponse": "repeated RepositoryIndexResponse.ModelIndex models = 1",
    "RepositoryIndexResponse.ModelIndex": "string name = 1, string version = 2, string state = 3, string reason = 4",
}
"""Names and numbers of the published protocol. `map` stands for `map<string, InferParameter>`."""

_FIELD = re.compile(r"(repeated )?([\w.]+) (\w+) = (\d+)")
_Proto = descriptor_pb2.FieldDescriptorProto


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
