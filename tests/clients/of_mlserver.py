"""Calls Enginehouse with what MLServer offers to clients. Arguments: address of REST, address of gRPC, API key, plain engine, tensor engine."""

import json
import sys
import urllib.request

import grpc
import numpy
import pandas
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    RepositoryIndexResponse,
)

REST, GRPC, KEY, PLAIN, TENSORS = sys.argv[1:]


def call(path, body=None):
    request = urllib.request.Request(f"http://{REST}{path}", body, {"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def over_rest(model, request):
    return InferenceResponse.model_validate(call(f"/v2/models/{model}/infer", request.model_dump_json().encode()))


def over_grpc(model, request):
    message = ModelInferRequestConverter.from_types(request, model_name=model, model_version=None)
    with grpc.insecure_channel(GRPC) as channel:
        stub = GRPCInferenceServiceStub(channel)
        return ModelInferResponseConverter.to_types(
            stub.ModelInfer(message, metadata=[("authorization", f"Bearer {KEY}")])
        )


def check(infer):
    text = StringCodec.encode_input("text", ["one three"])
    answer = infer(PLAIN, InferenceRequest(id="42", inputs=[text]))
    outputs = {output.name: output for output in answer.outputs}
    assert answer.id == "42"
    assert NumpyCodec.decode_output(outputs["words"]).tolist() == [2]
    assert StringCodec.decode_output(outputs["longest"]) == ["three"]
    sent = numpy.array([[1.5, 2], [3, 4]], dtype="float32")
    assert (NumpyCodec.decode_output(infer(TENSORS, NumpyRequestCodec.encode_request(sent)).outputs[0]) == sent).all()
    frame = pandas.DataFrame({"a": [1, 2], "b": [2.5, 3.5]})
    pandas.testing.assert_frame_equal(
        PandasCodec.decode_response(infer(TENSORS, PandasCodec.encode_request(frame))), frame
    )


assert MetadataServerResponse.model_validate(call("/v2")).name == "enginehouse"
assert MetadataModelResponse.model_validate(call(f"/v2/models/{PLAIN}")).inputs[0].name == "text"
assert RepositoryIndexResponse.model_validate(call("/v2/repository/index", b"{}"))
check(over_rest)
check(over_grpc)
