"""Random JSON, near the limits and beyond, for fuzzers."""

import json
from typing import Any

from hypothesis import strategies as st

JsonText = str
_ODD_NUMBERS = ["1e400", "-1e400", "-0", "1.0", "0.1e-400", "NaN", "Infinity", "01", "9" * 18]
_ODD_TEXTS = ['"\\ud800"', '"\\u0000"', '"\\x"', '"\u202e"', '""', '"\\u2028"', '"a\nb"']
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
"""Values that are JSON."""
odd = st.one_of(
    st.sampled_from([*_ODD_NUMBERS, *_ODD_TEXTS]),
    st.sampled_from([400, 5_000]).map(lambda digits: "7" * digits),
    st.just(70_000).map(lambda length: '"' + "x" * length + '"'),
)


def _nested(depth: int) -> JsonText:
    return "[" * depth + "1" + "]" * depth


_usual = values.map(json.dumps)
_small = st.sampled_from([_usual] * 20 + [odd]).flatmap(lambda kind: kind)
texts = st.one_of(
    _small,
    st.integers(1, 400).map(_nested),
    st.sampled_from([10, 20_000]).map(lambda many: "[" + ",".join(["{}"] * many) + "]"),
    st.sampled_from([10, 2_000]).map(lambda many: "{" + ",".join(f'"k{n}":1' for n in range(many)) + "}"),
    st.integers(2, 50).map(lambda many: "{" + ",".join(['"same":1'] * many) + "}"),
)
"""The text of one value, which need not be valid JSON."""


def objects(names: list[str]) -> st.SearchStrategy[JsonText]:
    """Make objects whose members have these names or others, and any values."""
    name = st.sampled_from(names) | st.text(max_size=10)
    members = st.lists(st.tuples(name.map(json.dumps), _small), max_size=5)
    return members.map(lambda found: "{" + ",".join(f"{key}:{value}" for key, value in found) + "}")


def encoded(text: st.SearchStrategy[JsonText]) -> st.SearchStrategy[bytes]:
    """Return the texts as bytes, also those that no valid text is."""
    return text.map(lambda found: found.encode("utf-8", "surrogatepass"))


_NAMES = ["a", "b", "c"]
PATTERNS = [
    "^a+$",
    "(a|b)*c",
    "^(a{0,20}){0,20}b$",
    "\\p{L}+",
    "(?=a)b",
    "[",
    "\\1",
    "(a*)*$",
    "^(\\w+\\s?)*$",
    "a{1000}",
]


def _keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    reference = st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/nowhere", "#/components/schemas/a", "http://127.0.0.1:9/x", "file:///etc/passwd", "../x"])  # fmt: skip
    small = st.integers(-1, 6)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "number", "integer", "null", "nothing"]) | st.lists(st.sampled_from(["string", "null"])),
            "properties": st.dictionaries(st.sampled_from(_NAMES), inner, max_size=3),
            "patternProperties": st.dictionaries(st.sampled_from(PATTERNS), inner, max_size=2),
            "required": st.lists(st.sampled_from(_NAMES), max_size=3),
            "items": inner,
            "prefixItems": st.lists(inner, max_size=3),
            "allOf": st.lists(inner, max_size=3),
            "anyOf": st.lists(inner, max_size=3),
            "oneOf": st.lists(inner, max_size=3),
            "not": inner,
            "if": inner,
            "then": inner,
            "contains": inner,
            "unevaluatedProperties": inner,
            "$ref": reference,
            "$dynamicRef": reference,
            "$schema": st.sampled_from(["https://json-schema.org/draft/2020-12/schema", "http://127.0.0.1:9/s", "x"]),
            "$id": st.sampled_from(["http://127.0.0.1:9/id", "#a", ""]),
            "$defs": st.dictionaries(st.sampled_from(_NAMES), inner, max_size=3),
            "pattern": st.sampled_from(PATTERNS),
            "minLength": small,
            "maxItems": small,
            "multipleOf": st.sampled_from([0, 0.1, 1e-300, -1, 3]),
            "uniqueItems": st.booleans(),
            "enum": st.lists(scalars, max_size=3),
            "const": scalars,
            "default": scalars,
            "nullable": st.booleans(),
        },
    )  # fmt: skip


schemas = _keywords(st.recursive(st.booleans() | st.just({}) | scalars, _keywords, max_leaves=8))
"""JSON Schemas, or what looks like one: with references, patterns, branches, and wrong values."""
