"""Tensors are the JSON of engines that know no tensors, as the tables of docs/open-inference.md say."""

from typing import Any

import pytest

from enginehouse.contracts.engine import EngineCard
from enginehouse.gateway.inference.metadata import inputs_of, known_outputs, outputs_of
from enginehouse.gateway.inference.plain import input_of
from enginehouse.gateway.inference.plain import outputs_of as tensors_of
from enginehouse.open_inference.tensors import NotThisProtocol, Tensor
from enginehouse.runner.clients.open_inference import described_by_metadata

_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
_ROW = {"type": "object", "properties": {"row": {"type": "array", "items": {"type": "number"}}}}
_IMAGE = {"type": "object", "properties": {"image": {"type": "string", "contentEncoding": "base64"}}}
_NESTED = {
    "type": "object",
    "properties": {"options": {"$ref": "#/$defs/o"}, "top": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    "$defs": {"o": {"type": "object"}},
}


def tensor(name: str, datatype: str, shape: list[int], data: list[Any], **parameters: Any) -> Tensor:
    return Tensor(name, datatype, tuple(shape), data=data, parameters=parameters)


@pytest.mark.parametrize(
    ("tensors", "schema", "value"),
    [
        ([tensor("text", "BYTES", [1], ["hi"])], _TEXT, {"text": "hi"}),
        ([tensor("text", "BYTES", [1, 1], ["hi"])], _TEXT, {"text": "hi"}),
        ([tensor("text", "BYTES", [], ["hi"])], _TEXT, {"text": "hi"}),
        ([tensor("text", "BYTES", [1], ["hi"])], {}, {"text": ["hi"]}),
        ([tensor("row", "FP32", [1, 3], [1, 2, 3])], _ROW, {"row": [1, 2, 3]}),
        ([tensor("row", "FP32", [3, 1], [1, 2, 3])], _ROW, {"row": [1, 2, 3]}),
        ([tensor("row", "FP32", [1], [1])], _ROW, {"row": [1]}),
        ([tensor("x", "INT8", [2, 2], [1, 2, 3, 4])], {}, {"x": [[1, 2], [3, 4]]}),
        ([tensor("x", "INT8", [2, 0, 3], [])], {}, {"x": [[], []]}),
        ([tensor("x", "BOOL", [2], [True, False])], {}, {"x": [True, False]}),
        ([tensor("x", "INT8", [20_000, 1], [1] * 20_000)], {}, {"x": [[1]] * 20_000}),
        ([tensor("a", "INT64", [1], [1]), tensor("b", "BYTES", [1], ["x"])], {}, {"a": [1], "b": ["x"]}),
        ([tensor("any", "BYTES", [1], ["hi"])], {"type": "string"}, "hi"),
        ([tensor("any", "FP64", [1, 2], [1, 2])], {"type": "array", "items": {"type": "number"}}, [1, 2]),
        ([tensor("input", "BYTES", [1], ['{"text": "hi"}'])], _TEXT, {"text": "hi"}),
        ([tensor("input", "BYTES", [1], ['{"a": 1}'], content_type="json")], {}, {"a": 1}),
        ([tensor("other", "BYTES", [1], ['{"a": 1}'], content_type="json")], {}, {"a": 1}),
        ([tensor("input", "BYTES", [2], ["1", "[2]"], content_type="json")], {}, [1, [2]]),
        (
            [tensor("options", "BYTES", [1], ['{"a": 1}']), tensor("top", "INT32", [1], [3])],
            _NESTED,
            {"options": {"a": 1}, "top": 3},
        ),
        ([Tensor("image", "BYTES", (1,), raw=b"\2\0\0\0\xff\0")], _IMAGE, {"image": "/wA="}),
        ([tensor("image", "BYTES", [1], ["/wA="], content_type="base64")], _IMAGE, {"image": "/wA="}),
    ],
)
def test_tensors_are_an_input(tensors: list[Tensor], schema: dict[str, Any], value: Any) -> None:
    assert input_of(tensors, schema) == value


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([tensor("x", "INT8", [1], [1]), tensor("x", "INT8", [1], [1])], "inputs[1].name: 'x' is given twice"),
        ([tensor("x", "BYTES", [1], ["{"], content_type="json")], "inputs[0]: is not JSON"),
        ([tensor("x", "INT8", [1], [1.5])], "inputs[0].data: a value is not of datatype INT8"),
        ([tensor("x", "INT8", [1], [True])], "inputs[0].data: a value is not of datatype INT8"),
        ([tensor("x", "FP32", [1], ["1"])], "inputs[0].data: a value is not of datatype FP32"),
        ([tensor("x", "BYTES", [1], [1])], "inputs[0].data: a value is not of datatype BYTES"),
        ([Tensor("x", "BYTES", (1,), raw=b"\1\0\0\0\xff")], "send bytes as base64 text"),
        (
            [Tensor("x", "FP16", (1,), raw=b"\0\x7e")],
            "holds NaN or Infinity, which JSON cannot hold; this engine takes JSON",
        ),
        ([tensor("x", "INT8", [2**60, 0], [])], "inputs[0].shape: means more than"),
        ([tensor("x", "BOOL", [6_000, *[1] * 31], [True] * 6_000)], "inputs[0].shape: means more than"),
        ([tensor(f"x{n}", "INT8", [9_000, 0], []) for n in range(256)], "inputs[1].shape: means more than"),
    ],
)
def test_what_is_no_json_is_refused(tensors: list[Tensor], said: str) -> None:
    with pytest.raises(NotThisProtocol) as refused:
        input_of(tensors, {})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("value", "schema", "tensors"),
    [
        (5, {}, [("output", "INT64", [1], [5])]),
        (5, {"type": "number"}, [("output", "FP64", [1], [5])]),
        (2**70, {}, [("output", "BYTES", [1], [str(2**70)])]),
        ("hi", {}, [("output", "BYTES", [1], ["hi"])]),
        (None, {}, [("output", "BYTES", [1], ["null"])]),
        ({}, {}, [("output", "BYTES", [1], ["{}"])]),
        ([[1, 2], [3, 4.5]], {}, [("output", "FP64", [2, 2], [1, 2, 3, 4.5])]),
        ([[1, 2], [3]], {}, [("output", "BYTES", [1], ["[[1,2],[3]]"])]),
        ([1, "x"], {}, [("output", "BYTES", [1], ['[1,"x"]'])]),
        ([], {"type": "array", "items": {"type": "integer"}}, [("output", "INT64", [0], [])]),
        ({"a": [True], "b": {"c": 1}}, {}, [("a", "BOOL", [1], [True]), ("b", "BYTES", [1], ['{"c":1}'])]),
        (
            {"label": "x", "score": 1},
            {"properties": {"score": {"type": "number"}}},
            [("label", "BYTES", [1], ["x"]), ("score", "FP64", [1], [1])],
        ),
    ],
)
def test_an_output_is_tensors(value: Any, schema: dict[str, Any], tensors: list[Any]) -> None:
    found = tensors_of(value, schema)
    assert [(t.name, t.datatype, list(t.shape), t.data) for t in found] == tensors
    for made in found:
        made.check("outputs")


def card(**fields: Any) -> EngineCard:
    return EngineCard(engine="acme--one", slot="a", version="v1", **fields)


def test_metadata_of_schemas() -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "rows": {
                "type": "array",
                "items": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number"}},
            },
            "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "integer"}], "items": False},
            "image": {"type": "string", "contentEncoding": "base64"},
            "options": {"type": "object"},
            "anything": {},
            "choice": {"enum": ["a", "b", None]},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "circle": {"$ref": "#/properties/circle"},
        },
    }
    shown = {t["name"]: (t["datatype"], t["shape"], t.get("parameters")) for t in inputs_of(card(input_schema=schema))}
    as_json = ("BYTES", [1], {"content_type": "json"})
    assert shown == {
        "text": ("BYTES", [1], None),
        "rows": ("FP64", [-1, 4], None),
        "pair": ("INT64", [2], None),
        "image": ("BYTES", [1], {"content_type": "base64"}),
        "options": as_json,
        "anything": as_json,
        "choice": ("BYTES", [1], None),
        "either": as_json,
        "circle": as_json,
    }
    assert outputs_of(card()) == [
        {"name": "output", "datatype": "BYTES", "shape": [1], "parameters": {"content_type": "json"}}
    ]
    assert inputs_of(card(input_schema={"type": "boolean"})) == [{"name": "input", "datatype": "BOOL", "shape": [1]}]


_FIELDS = {"type": "object", "properties": {"label": {"type": "string"}, "score": {"type": "number"}}}


@pytest.mark.parametrize(
    ("schema", "known"),
    [
        (_FIELDS, ["label", "score"]),
        ({**_FIELDS, "additionalProperties": {"type": "string"}}, []),
        ({"type": "object"}, []),
        ({"type": "array", "items": {"type": "number"}}, ["output"]),
        ({"anyOf": [{"type": "string"}, _FIELDS]}, []),
        ({}, []),
    ],
)
def test_the_outputs_are_known_if_the_schema_names_all_of_them(schema: dict[str, Any], known: list[str]) -> None:
    assert known_outputs(card(output_schema=schema)) == known


@pytest.mark.parametrize(
    ("schema", "datatype"),
    [
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "prefixItems": [{"$ref": "#/$defs/a"}] * 32}}}, None),
        # Each of 30 parts refers twice to the next: followed one by one, 2^30 references.
        (
            {
                "$ref": "#/$defs/p0",
                "$defs": {f"p{n}": {"anyOf": [{"$ref": f"#/$defs/p{n + 1}"}] * 2} for n in range(30)}
                | {"p30": {"type": "number"}},
            },
            "FP64",
        ),
        ({"type": [["array"], 5]}, None),
        ({"enum": 5}, "INT64"),
    ],
)
def test_no_schema_takes_long_or_is_an_error(schema: dict[str, Any], datatype: str | None) -> None:
    shown = inputs_of(card(input_schema=schema))
    as_json = {"name": "input", "datatype": "BYTES", "shape": [1], "parameters": {"content_type": "json"}}
    assert shown == [{"name": "input", "datatype": datatype, "shape": [1]} if datatype else as_json]


def test_metadata_of_a_server_comes_back_as_it_was() -> None:
    metadata = {
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "label", "datatype": "BYTES", "shape": [1]},
        ],
        "outputs": [{"name": "score", "datatype": "BF16", "shape": [-1]}],
    }
    described = described_by_metadata(metadata)
    known = card(protocol="open-inference", input_schema=described.input_schema, output_schema=described.output_schema)
    assert (inputs_of(known), outputs_of(known)) == (metadata["inputs"], metadata["outputs"])
    assert known_outputs(known) == ["score"]
    assert known_outputs(card(protocol="open-inference")) == []
    assert inputs_of(card(protocol="open-inference")) == []
