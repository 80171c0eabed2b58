"""Calls Enginehouse with Triton's clients. Arguments: address of REST, address of gRPC, API key, plain engine, tensor engine."""

import sys

import numpy
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

REST, GRPC, KEY, PLAIN, TENSORS = sys.argv[1:]
DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]


def refused(call):
    try:
        call()
    except InferenceServerException as error:
        return error
    raise AssertionError("it was not refused")


def check(client, api, headers):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(PLAIN, headers=headers)
    assert client.is_model_ready(TENSORS, "v1", headers=headers)
    shown = client.get_model_metadata(PLAIN, headers=headers)
    inputs = shown["inputs"] if isinstance(shown, dict) else shown.inputs
    assert len(inputs) == 1, shown
    index = client.get_model_repository_index(headers=headers)
    names = [entry["name"] for entry in index] if isinstance(index, list) else [entry.name for entry in index.models]
    assert {PLAIN, TENSORS} <= set(names), names

    text = api.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(numpy.array([b"one three"], dtype=object))
    answer = client.infer(PLAIN, [text], request_id="r1", headers=headers)
    assert answer.as_numpy("words").tolist() == [2]
    assert answer.as_numpy("longest").tolist() == [b"three"]
    answer = client.infer(PLAIN, [text], outputs=[api.InferRequestedOutput("words")], headers=headers)
    assert answer.as_numpy("words").tolist() == [2]
    assert answer.as_numpy("longest") is None

    for name in DTYPES:
        sent = numpy.array([[1, 0, 1], [0, 1, 1]]).astype(name)
        if name.startswith("float"):
            sent[0] = [numpy.nan, numpy.inf, -0.0]
        same(client, api, headers, sent, np_to_triton_dtype(sent.dtype))
    same(client, api, headers, numpy.array([b"\xff\x00", b"", "ä".encode()], dtype=object), "BYTES")
    same(client, api, headers, numpy.zeros((0, 4), dtype="float32"), "FP32")
    same(client, api, headers, numpy.arange(400_000, dtype="float64").reshape(4, -1), "FP64")

    assert "No engine" in refused(lambda: client.infer("nobody", [text], headers=headers)).message()
    assert "Authorization" in refused(lambda: client.infer(PLAIN, [text])).message()
    assert "text" in refused(lambda: client.infer(PLAIN, [api_input(api, "other")], headers=headers)).message()
    assert "deploy" in refused(lambda: client.load_model(PLAIN, headers=headers)).message()
    assert "deploy" in refused(lambda: client.unload_model(PLAIN, headers=headers)).message()


def api_input(api, name):
    made = api.InferInput(name, [1], "INT32")
    made.set_data_from_numpy(numpy.array([1], dtype="int32"))
    return made


def same(client, api, headers, sent, datatype):
    tensor = api.InferInput("x", list(sent.shape), datatype)
    tensor.set_data_from_numpy(sent)
    answer = client.infer(TENSORS, [tensor], outputs=[api.InferRequestedOutput("x")], headers=headers)
    found = answer.as_numpy("x")
    assert (found.dtype, found.shape) == (sent.dtype, sent.shape), (datatype, found)
    is_same = found.tolist() == sent.tolist() if sent.dtype == object else found.tobytes() == sent.tobytes()
    assert is_same, (datatype, found)


check(over_http.InferenceServerClient(REST), over_http, {"Authorization": f"Bearer {KEY}"})
check(over_grpc.InferenceServerClient(GRPC), over_grpc, {"authorization": f"Bearer {KEY}"})
