"""An infer request reaches a server of tensors as it was sent, and its answer comes back so, over each pair of transports."""

import base64
import contextlib
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginehouse.contracts.errors import RequestError
from enginehouse.gateway.inference.requests import Ended, Infer, Model, read_rest, read_rpc, write_rest, write_rpc
from enginehouse.open_inference.bodies import HEADER, body_of, header_length, take_binary
from enginehouse.open_inference.messages import MESSAGES
from enginehouse.open_inference.rpc import CONTENTS, read_message_parameters
from enginehouse.open_inference.tensors import FORMS, NotForJson, NotThisProtocol, Tensor, pack, read_tensor, unpack
from enginehouse.runner.clients.open_inference import InferBody, infer_body, read_infer_answer
from enginehouse.runner.clients.open_inference_grpc import InferCall, infer_call, read_infer_bytes
from enginehouse.runner.outcome import Succeeded

MODEL = Model("tensors", speaks_tensors=True, schema={})
_LIMIT = 10**9

_SIZES = {"BOOL": 1, "BF16": 2, "FP16": 2, "FP32": 4, "FP64": 8}
_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)
_PARAMETERS = st.dictionaries(
    st.sampled_from(["a", "b", "ä"]),
    st.booleans()
    | st.text(max_size=3)
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    max_size=2,
)


@st.composite
def _raw(draw: st.DrawFn, datatype: str, count: int) -> bytes:
    """Any bytes of so many values: also NaN in all its forms, and texts that are not UTF-8."""
    if datatype == "BYTES":
        return pack("BYTES", draw(st.lists(st.binary(max_size=4), min_size=count, max_size=count)), "")
    if datatype == "BOOL":
        return bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    size = _SIZES.get(datatype) or struct.calcsize(f"<{FORMS[datatype]}")
    return draw(st.binary(min_size=size * count, max_size=size * count))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(list(FORMS)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    raw = draw(_raw(datatype, math.prod(shape)))
    return Tensor(draw(_NAMES), datatype, shape, raw=raw, parameters=draw(_PARAMETERS))


_REQUESTS = st.lists(tensors(), min_size=1, max_size=3, unique_by=lambda tensor: tensor.name)


def same(one: Tensor, other: Tensor) -> bool:
    return (one.name, one.datatype, one.shape, one.parameters) == (
        other.name,
        other.datatype,
        other.shape,
        other.parameters,
    ) and one.content("") == other.content("")


def rest_request(sent: list[Tensor], *, binary: bool) -> Infer:
    document = {
        "id": "42",
        "parameters": {"top": 3, "binary_data_output": binary},
        "inputs": [(tensor if binary else tensor.as_json("")).document() for tensor in sent],
        "outputs": [{"name": tensor.name} for tensor in sent],
    }
    body, head = body_of(document, "inputs")
    return read_rest(body, None if head is None else str(head), MODEL)


def rpc_request(sent: list[Tensor], *, binary: bool) -> Infer:
    message = MESSAGES["ModelInferRequest"](model_name="tensors", id="42")
    message.parameters["top"].int64_param = 3
    _add(message.inputs, message.raw_input_contents, sent, binary=binary)
    for tensor in sent:
        message.outputs.add(name=tensor.name)
    return read_rpc(message.SerializeToString(), MODEL)


def _add(into: Any, raw: Any, sent: list[Tensor], *, binary: bool) -> None:
    for tensor in sent:
        made = into.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        for name, value in tensor.parameters.items():
            kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
            setattr(made.parameters[name], "uint64_param" if type(value) is int and value >= 2**63 else kind, value)
        if binary:
            raw.append(tensor.content(""))
        else:
            getattr(made.contents, CONTENTS[tensor.datatype]).extend(unpack(tensor.datatype, tensor.content(""), ""))


def through_rest(document: Any, sent: list[Tensor], *, answers_binary: bool) -> Any:
    """Send a job to a server over REST that checks what it gets, and answers with its inputs."""
    made = infer_body(document, "job", None)
    assert isinstance(made, InferBody), made
    received = json.loads(made.body[: made.head])
    take_binary(received, "inputs", made.body[made.head :] if made.head is not None else b"")
    _check(received, sent)
    answer = {"model_name": "m", "id": received["id"], "outputs": received["inputs"]}
    if not answers_binary:
        answer["outputs"] = [read_tensor(tensor, "").as_json("").document() for tensor in received["inputs"]]
    body, head = body_of(answer, "outputs")
    reply = read_infer_answer(body, _LIMIT, None if head is None else str(head))
    assert isinstance(reply, Succeeded), reply
    return reply.output


def _check(received: Any, sent: list[Tensor]) -> None:
    assert received["id"] == "42"
    assert received["parameters"]["top"] == 3
    assert [output["name"] for output in received["outputs"]] == [tensor.name for tensor in sent]
    found = [read_tensor(tensor, "") for tensor in received["inputs"]]
    assert all(same(one, other) for one, other in zip(found, sent, strict=True))


def through_rpc(document: Any, sent: list[Tensor], *, answers_binary: bool) -> Any:
    """The same over gRPC."""
    made = infer_call(document, "job", None, "m", None)
    assert isinstance(made, InferCall), made
    received = MESSAGES["ModelInferRequest"].FromString(made.request)
    assert (received.id, received.model_name) == ("42", "m")
    assert read_message_parameters(received.parameters) == {"top": 3}
    assert [output.name for output in received.outputs] == [tensor.name for tensor in sent]
    answer = MESSAGES["ModelInferResponse"](model_name="m", id="42")
    typed = not answers_binary and all(tensor.datatype in CONTENTS for tensor in sent)
    _add(answer.outputs, answer.raw_output_contents, sent, binary=not typed)
    reply = read_infer_bytes(answer.SerializeToString(), _LIMIT, made.binary)
    assert isinstance(reply, Succeeded), reply
    return reply.output


def answered(write: Any, infer: Infer, output: Any) -> list[Tensor]:
    ended = Ended("job-1", "v1", infer.id, infer.outputs, infer.binary)
    text = json.dumps(output).encode()
    if write is write_rest:
        body, head = write_rest(text, MODEL, ended)
        document = json.loads(body[:head])
        assert (document["model_name"], document["model_version"], document["id"]) == ("tensors", "v1", "42")
        assert document["parameters"]["job_id"] == "job-1"
        take_binary(document, "outputs", body[head:] if head is not None else b"")
        return [read_tensor(tensor, "") for tensor in document["outputs"]]
    message = MESSAGES["ModelInferResponse"].FromString(write_rpc(text, MODEL, ended))
    assert (message.model_name, message.model_version, message.id) == ("tensors", "v1", "42")
    assert message.parameters["job_id"].string_param == "job-1"
    raw = message.raw_output_contents
    found = []
    for number, output_tensor in enumerate(message.outputs):
        content = (
            raw[number]
            if raw
            else pack(output_tensor.datatype, getattr(output_tensor.contents, CONTENTS[output_tensor.datatype]), "")
        )
        parameters = read_message_parameters(output_tensor.parameters)
        found.append(
            Tensor(
                output_tensor.name,
                output_tensor.datatype,
                tuple(output_tensor.shape),
                raw=content,
                parameters=parameters,
            )
        )
    return found


def _nan_is_one_nan(sent: list[Tensor]) -> list[Tensor]:
    """Typed contents of gRPC are numbers of Python on their way, where all NaN are alike."""
    return [
        Tensor(
            t.name,
            t.datatype,
            t.shape,
            raw=pack(t.datatype, unpack(t.datatype, t.content(""), ""), ""),
            parameters=t.parameters,
        )
        for t in sent
    ]


@pytest.mark.parametrize("through", [through_rest, through_rpc])
@pytest.mark.parametrize("front", [rest_request, rpc_request])
@settings(max_examples=30)
@given(sent=_REQUESTS, answers_binary=st.booleans())
def test_binary_tensors_travel_unchanged(front: Any, through: Any, sent: list[Tensor], answers_binary: bool) -> None:
    infer = front(sent, binary=True)
    if not answers_binary or through is through_rpc:
        sent = _nan_is_one_nan(sent)
        infer = front(sent, binary=True)
    output = through(infer.input, sent, answers_binary=answers_binary)
    found = answered(write_rest if front is rest_request else write_rpc, infer, output)
    assert all(same(one, other) for one, other in zip(found, sent, strict=True))


@pytest.mark.parametrize("through", [through_rest, through_rpc])
@pytest.mark.parametrize("front", [rest_request, rpc_request])
@settings(max_examples=30)
@given(sent=_REQUESTS)
def test_values_travel_unchanged(front: Any, through: Any, sent: list[Tensor]) -> None:
    sent = [tensor for tensor in sent if front is rest_request or tensor.datatype in CONTENTS]
    if front is rest_request:
        sent = [tensor for tensor in sent if tensor.as_json("").raw is None]
    sent = _nan_is_one_nan(sent)
    if not sent:
        return
    infer = front(sent, binary=False)
    output = through(infer.input, sent, answers_binary=False)
    found = answered(write_rest if front is rest_request else write_rpc, infer, output)
    assert all(same(one, other) for one, other in zip(found, sent, strict=True))


@given(st.floats(width=32, allow_nan=False))
def test_bf16_is_rounded_to_the_nearest(value: float) -> None:
    (found,) = unpack("BF16", pack("BF16", [value], ""), "")
    assert found == value or math.isinf(found) or abs(found - value) <= abs(value) / 256 + 1e-40


@pytest.mark.parametrize(
    ("body", "length", "said"),
    [
        (b"{}", None, "inputs: must be a list of 1 to 256 tensors"),
        (b"[]", None, "The body: must be an object"),
        (b"{", None, "not JSON"),
        (b'{"inputs": []}', None, "inputs: must be a list of 1"),
        (b'{"inputs": [{}]}', None, "inputs[0]: must be a tensor with a name"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP8", "data": [1]}]}', None, "inputs[0].datatype"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": [], "data": [1]}]}', None, "inputs[0].datatype"),
        (b'{"inputs": [{"name": "x", "shape": [-1], "datatype": "FP32", "data": [1]}]}', None, "inputs[0].shape"),
        (b'{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1]}]}', None, "has 1 values"),
        (
            b'{"inputs": [{"name": "x", "shape": [1152921504606846976, 1152921504606846976], "datatype": "FP32", "data": [1]}]}',
            None,
            "its shape means far more",
        ),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}', None, "inputs[0].data: must be a list"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "raw": "="}]}', None, "inputs[0].raw"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "raw": "AAA="}]}', None, "has 2 bytes"),
        (b'{"inputs": [], "outputs": 1}', "99", f"{HEADER}: must be a number of bytes"),
        (b"{}", "-1", f"{HEADER}: must be"),
        (
            b'{"id": 5, "inputs": [{"name": "x", "shape": [0], "datatype": "FP32", "data": []}]}',
            None,
            "id: must be text",
        ),
        (
            b'{"parameters": 5, "inputs": [{"name": "x", "shape": [0], "datatype": "FP32", "data": []}]}',
            None,
            "parameters",
        ),
        (
            b'{"outputs": [{}], "inputs": [{"name": "x", "shape": [0], "datatype": "FP32", "data": []}]}',
            None,
            "outputs[0]",
        ),
    ],
)
def test_a_refusal_names_its_place(body: bytes, length: str | None, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_rest(body, length, MODEL)
    assert said in str(refused.value)


def _binary(sizes: list[Any], data: bytes) -> tuple[bytes, str]:
    head = json.dumps(
        {
            "inputs": [
                {"name": str(n), "shape": [4], "datatype": "UINT8", "parameters": {"binary_data_size": size}}
                for n, size in enumerate(sizes)
            ]
        }
    ).encode()
    return head + data, str(len(head))


@pytest.mark.parametrize(
    ("sizes", "data", "said"),
    [
        ([4], b"123", "inputs[0].parameters.binary_data_size: must be a number of bytes, of which the body has 3 left"),
        ([2**62], b"1234", "of which the body has 4 left"),
        ([-1], b"1234", "inputs[0].parameters.binary_data_size"),
        ([True], b"1234", "inputs[0].parameters.binary_data_size"),
        ([4], b"12345", "the body has 1 bytes of binary data that no tensor names"),
        ([4, 4], b"1234567", "inputs[1].parameters.binary_data_size"),
        ([3], b"123", "inputs[0]: has 3 bytes, and its shape and datatype mean 4"),
    ],
)
def test_binary_data_must_fit(sizes: list[Any], data: bytes, said: str) -> None:
    body, length = _binary(sizes, data)
    with pytest.raises(RequestError) as refused:
        read_rest(body, length, MODEL)
    assert said in str(refused.value)


_HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**60, -1, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_RESULTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_SCHEMAS = st.sampled_from(
    [
        {},
        {"type": "string"},
        {"type": "array", "items": {"type": "number"}},
        {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "array", "items": {"$ref": "#"}}}},
        {"$ref": "#/properties/x", "properties": {"x": {"$ref": "#/properties/x"}}},
        {
            "anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}],
            "$defs": {"a": {"type": ["array", "null"], "prefixItems": [{}]}},
        },
        {"enum": [1, "a", None]},
    ]
)


@settings(max_examples=150)
@given(
    body=st.fixed_dictionaries(
        {
            "inputs": st.lists(
                st.fixed_dictionaries(
                    {"name": st.sampled_from(["x", "y", "input"]), "datatype": st.sampled_from(list(FORMS)) | _HOSTILE},
                    optional={
                        "shape": st.lists(st.sampled_from([0, 1, 2, 2**60]), max_size=4) | _HOSTILE,
                        "data": st.lists(_HOSTILE, max_size=3) | _HOSTILE,
                        "raw": st.binary(max_size=9).map(lambda raw: base64.b64encode(raw).decode()) | _HOSTILE,
                        "parameters": st.sampled_from([{"content_type": "json"}, {"binary_data_size": 2}]) | _HOSTILE,
                    },
                ),
                max_size=3,
            )
            | _HOSTILE
        },
        optional={"id": _HOSTILE, "outputs": _HOSTILE, "parameters": _HOSTILE},
    ),
    data=st.binary(max_size=4),
    schema=_SCHEMAS,
    speaks_tensors=st.booleans(),
)
def test_whatever_is_sent_is_read_or_refused(body: Any, data: bytes, schema: Any, speaks_tensors: bool) -> None:
    head = json.dumps(body).encode()
    with contextlib.suppress(RequestError):
        read_rest(head + data, str(len(head)), Model("m", speaks_tensors, schema))


@settings(max_examples=150)
@given(body=st.binary(max_size=60), speaks_tensors=st.booleans())
def test_whatever_message_is_sent_is_read_or_refused(body: bytes, speaks_tensors: bool) -> None:
    with contextlib.suppress(RequestError):
        read_rpc(body, Model("m", speaks_tensors, {}))


@settings(max_examples=100)
@given(output=_RESULTS, schema=_SCHEMAS, binary=st.booleans())
def test_whatever_an_engine_answers_has_tensors(output: Any, schema: Any, binary: bool) -> None:
    infer = rest_request([Tensor("x", "UINT8", (1,), raw=b"1")], binary=binary)
    ended = Ended("job-1", None, None, (), infer.binary)
    text = json.dumps(output).encode()
    body, head = write_rest(text, Model("m", speaks_tensors=False, schema=schema), ended)
    assert json.loads(body[:head])["outputs"]
    write_rpc(text, Model("m", speaks_tensors=False, schema=schema), ended)


def test_what_json_cannot_hold_is_said() -> None:
    with pytest.raises(NotForJson):
        Tensor("x", "FP32", (1,), raw=struct.pack("<f", math.nan)).values("x")
    with pytest.raises(NotThisProtocol):
        header_length("x", 3)
