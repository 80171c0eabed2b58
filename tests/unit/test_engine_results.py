"""What an engine answers becomes JSON as its author expects, or the error says where it cannot and what to do."""

import collections
import dataclasses
import datetime
import enum
import fractions
import importlib
import subprocess
import sys
import types
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic_core
import pytest
from pydantic import BaseModel

from enginehouse.contracts.job import OUTPUT_MAX_DEPTH
from enginehouse.engine import Engine
from enginehouse.engine.codec import Codec
from enginehouse.engine.plain import BadResult
from enginehouse.engine.signature import read_signature

np: Any = importlib.import_module("numpy")
pd: Any = importlib.import_module("pandas")


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Model(BaseModel):
    name: str
    score: Any = None


@dataclasses.dataclass
class Box:
    score: Any
    at: Any = (0, 1)


class Rank(collections.namedtuple("Rank", ["first", "second"])):
    pass


@dataclasses.dataclass
class Node:
    parent: "Node | None" = None


def written(value: Any, kind: Any = Any) -> Any:
    """Return what a caller gets for a result of an engine whose predict is declared to return `kind`."""

    def predict(self: Any, data: Any) -> Any:
        return value

    predict.__annotations__["return"] = kind
    engine = type("Answering", (Engine,), {"predict": predict})
    answer = pydantic_core.from_json(Codec(read_signature(engine).predict).write(value))
    return answer["result"]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


DAY = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
VALUES: dict[str, tuple[Any, Any]] = {
    "NumPy float32": (np.float32(0.5), 0.5),
    "NumPy float64": (np.float64(0.1), 0.1),
    "NumPy longdouble": (np.longdouble(0.5), 0.5),
    "NumPy int64": (np.int64(-(2**62)), -(2**62)),
    "NumPy uint64": (np.uint64(2**64 - 1), 2**64 - 1),
    "NumPy bool": (np.bool_(True), True),
    "NumPy str": (np.str_("é"), "é"),
    "NumPy moment": (np.datetime64("2026-01-02T03:04:05.000000001"), "2026-01-02T03:04:05"),
    "NumPy missing moment": (np.datetime64("NaT"), None),
    "NumPy duration": (np.timedelta64(90, "s"), "PT1M30S"),
    "NumPy array": (np.arange(6, dtype="int32").reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
    "NumPy array of half floats": (np.array([0.5, 1.5], dtype="float16"), [0.5, 1.5]),
    "NumPy array without dimension": (np.array(7), 7),
    "NumPy array of objects": (np.array([np.float32(1), None, {"a": np.int8(1)}], dtype=object), [1.0, None, {"a": 1}]),
    "NumPy array of moments": (np.array(["2026-01-02"], dtype="datetime64[ns]"), ["2026-01-02T00:00:00"]),
    "NumPy values in a dict": ({"scores": [np.float32(1.5), np.int16(2)]}, {"scores": [1.5, 2]}),
    "NumPy keys": ({np.int64(1): "a", np.str_("b"): "c"}, {"1": "a", "b": "c"}),
    "pandas Timestamp": (pd.Timestamp("2026-01-02", tz="UTC"), "2026-01-02T00:00:00Z"),
    "pandas NaT": ({"at": pd.NaT}, {"at": None}),
    "pandas NA": ([pd.NA, 1], [None, 1]),
    "pandas Timedelta": (pd.Timedelta(minutes=1), "PT1M"),
    "pandas Series": (pd.Series([1.5, None]), [1.5, None]),
    "pandas Series of moments": (pd.Series(pd.to_datetime(["2026-01-02", None])), ["2026-01-02T00:00:00", None]),
    "pandas Series of nullable integers": (pd.Series([1, None], dtype="Int64"), [1, None]),
    "pandas Series of categories": (pd.Series(["a", None], dtype="category"), ["a", None]),
    "pandas Index": (pd.Index(["a", "b"]), ["a", "b"]),
    "pandas DataFrame": (
        pd.DataFrame({"name": ["a", None], "n": [1, 2], "x": [0.5, float("nan")]}),
        [{"name": "a", "n": 1, "x": 0.5}, {"name": None, "n": 2, "x": None}],
    ),
    "pandas DataFrame without names": (pd.DataFrame([[1, 2]]), [{"0": 1, "1": 2}]),
    "pandas in a model": (Model(name="m", score=pd.Series([1])), {"name": "m", "score": [1]}),
    "tensor": (types.SimpleNamespace, None),
    "Decimal": ({"price": Decimal("1.10")}, {"price": "1.10"}),
    "Fraction": (fractions.Fraction(1, 4), "1/4"),
    "datetime": (DAY, "2026-01-02T03:04:05Z"),
    "date": ([DAY.date()], ["2026-01-02"]),
    "time": (DAY.time(), "03:04:05"),
    "timedelta": (datetime.timedelta(hours=1), "PT1H"),
    "dataclass": (Box(1), {"score": 1, "at": [0, 1]}),
    "dataclass with NumPy": ([Box(np.float32(0.5), np.array([1, 2]))], [{"score": 0.5, "at": [1, 2]}]),
    "model": (Model(name="m"), {"name": "m", "score": None}),
    "model with NumPy": ({"m": Model(name="m", score=np.float32(0.5))}, {"m": {"name": "m", "score": 0.5}}),
    "enum": ([Color.RED, Level.HIGH], ["red", 3]),
    "enum as key beside NumPy": ({Color.RED: np.float32(1)}, {"red": 1.0}),
    "set": ({1}, [1]),
    "frozenset with NumPy": (frozenset([np.int64(1)]), [1]),
    "tuple": ((1, "a"), [1, "a"]),
    "named tuple": (Rank(np.float32(1), 2), [1.0, 2]),
    "deque": (collections.deque([1, np.int8(2)]), [1, 2]),
    "range": (range(3), [0, 1, 2]),
    "values of a dict": ({"a": np.int8(1)}.values(), [1]),
    "read-only dict": (types.MappingProxyType({"a": np.int8(1)}), {"a": 1}),
    "UUID": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "Path": ([Path("a/b"), np.int8(1)], ["a/b", 1]),
    "bytes that are text": (b"abc", "abc"),
    "memory that is text": (memoryview(b"abc"), "abc"),
    "text beside NumPy": (["é\N{GRINNING FACE}", np.int8(1)], ["é\N{GRINNING FACE}", 1]),
    "generator": ((n for n in range(2)), [0, 1]),
    "generator beside null": ({"none": None, "all": (n for n in range(2))}, {"none": None, "all": [0, 1]}),
    "large integers": ([2**63, -(2**70), 10**400], [2**63, -(2**70), 10**400]),
    "large integers beside NumPy": ([10**400, np.int8(1)], [10**400, 1]),
    "words that look like numbers": (["NaN", "Infinity", None], ["NaN", "Infinity", None]),
    "the deepest": (nested(OUTPUT_MAX_DEPTH), nested(OUTPUT_MAX_DEPTH)),
    "the deepest with NumPy": ([nested(OUTPUT_MAX_DEPTH - 1), np.int8(1)], [nested(OUTPUT_MAX_DEPTH - 1), 1]),
    "wide": ([[0]] * 1_000, [[0]] * 1_000),
}


class Tensor:
    """Has no type that anybody knows, and a `tolist`, as tensors do."""

    def tolist(self) -> list[float]:
        return [0.5, 1.5]


VALUES["tensor"] = (Tensor(), [0.5, 1.5])


@pytest.mark.parametrize(("value", "expected"), VALUES.values(), ids=VALUES.keys())
def test_values_become_json_as_an_author_expects_where_the_result_is_untyped(value: Any, expected: Any) -> None:
    assert written(value) == expected


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (list[float], np.array([0.5, 1]), [0.5, 1.0]),
        (list[list[float]], np.array([[0.5], [1]]), [[0.5], [1.0]]),
        (dict[str, float], {"a": np.float32(0.5)}, {"a": 0.5}),
        (dict, {"a": np.float32(0.5)}, {"a": 0.5}),
        (list[Box], [Box(np.float32(0.5))], [{"score": 0.5, "at": [0, 1]}]),
        (Box, Box(np.array([1, 2])), {"score": [1, 2], "at": [0, 1]}),
        (list[dict[str, Any]], pd.DataFrame({"a": [1]}), [{"a": 1}]),
        (list[int], pd.Series([1, 2]), [1, 2]),
        (list[str], ("a", "b"), ["a", "b"]),
        (str, Path("a"), None),
        (list[int], np.array([0.5]), None),
    ],
)
def test_foreign_values_fit_the_declared_type_once_they_are_plain(kind: Any, value: Any, expected: Any) -> None:
    if expected is None:
        with pytest.raises(BadResult, match="the result is not of the declared type"):
            written(value, kind)
    else:
        assert written(value, kind) == expected


def circle() -> Any:
    value: dict[str, Any] = {"list": []}
    value["list"].append(value)
    return value


def family() -> Any:
    node = Node()
    node.parent = Node(node)
    return {"root": node}


def consumed() -> Any:
    return {"all": (np.float32(n) for n in range(2))}


def two_columns() -> Any:
    return pd.DataFrame([[1, 2]], columns=["a", "a"])


NAN, INFINITY = float("nan"), float("inf")
REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "NaN": (lambda: {"boxes": [1, 2, 3, {"score": NAN}]}, "result.boxes[3].score: nan", "answer None"),
    "NaN at the top": (lambda: NAN, "result: nan", "answer None"),
    "infinity in a list": (lambda: [1.0, -INFINITY], "result[1]: -inf", "answer None"),
    "NaN in a model": (lambda: Model(name="m", score=NAN), "result.score: nan", "answer None"),
    "NaN in a dataclass": (lambda: {"b": [Box(NAN)]}, "result.b[0].score: nan", "answer None"),
    "NaN in an array": (lambda: {"a": np.array([[1, 2], [3, NAN]])}, "result.a[1][1]: nan", "answer None"),
    "infinity in a table": (lambda: pd.DataFrame({"x": [1, INFINITY]}), "result[1].x: inf", "answer None"),
    "NumPy NaN": (lambda: {"x": np.float32(NAN)}, "result.x: nan", "answer None"),
    "bytes": (lambda: {"picture": b"\x89PNG"}, "result.picture: bytes", "base64.b64encode"),
    "memory": (lambda: [memoryview(b"\xff")], "result[0]: bytes", "base64.b64encode"),
    "half a character": (lambda: {"text": ["ok", "\ud800"]}, "result.text[1]: a text with half a character", "replace"),
    "half a character in a key": (lambda: {"\ud800": 1}, "result: its key '\\ud800'", "keys are texts"),
    "too deep": (lambda: {"tree": nested(OUTPUT_MAX_DEPTH)}, "result.tree[0][0]", "flatter"),
    "much too deep": (lambda: {"tree": nested(100_000)}, "result.tree[0][0]", "flatter"),
    "too deep with NumPy": (lambda: [np.int8(1), nested(OUTPUT_MAX_DEPTH)], "result[1][0]", "flatter"),
    "circle": (circle, "result.list[0]", "it contains itself, and JSON has no references: answer a copy"),
    "circle of dataclasses": (family, "result.root.parent.parent", "it contains itself"),
    "unknown object": (lambda: {"a": [object()]}, "result.a[0]: a object", "answer a dict"),
    "class": (lambda: [Model], "result[0]: a ", "answer a dict"),
    "exception": (lambda: {"why": ValueError("x")}, "result.why: a ValueError", "answer a dict"),
    "object as key": (lambda: {"a": {object(): 1}}, "result.a: its key <object", "keys are texts"),
    "odd name": (lambda: {"a b": NAN}, "result['a b']: nan", "answer None"),
    "iterator that was read": (consumed, "result.all: an iterator", "answer a list"),
    "two columns of one name": (two_columns, "result: a table with two columns of the same name", "rename"),
}


@pytest.mark.parametrize(("make", "place", "remedy"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_json_says_its_path_and_the_remedy(make: Callable[[], Any], place: str, remedy: str) -> None:
    with pytest.raises(BadResult) as caught:
        written(make())
    message = str(caught.value)
    assert message.startswith(place)
    assert remedy in message
    assert len(message) < 400


def test_the_engine_package_needs_neither_numpy_nor_pandas() -> None:
    script = "import sys, enginehouse.engine; sys.exit(any(name in sys.modules for name in ('numpy', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_result_that_pydantic_can_write_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginehouse.engine.codec.plain", lambda value: pytest.fail("it was looked through"))
    assert written({"vector": [0.5] * 1_000, "none": None, "boxes": [{"x": 1}] * 500})["none"] is None
