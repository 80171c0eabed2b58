"""Turns tensors into the JSON input of an engine that knows no tensors, and its JSON output into tensors.

`docs/open-inference.md` has the table.
"""

import base64
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic_core

from enginehouse.contracts.json_text import NUMBER_MAX
from enginehouse.gateway.inference.kinds import Kind, Shapes, shapes_of
from enginehouse.open_inference.tensors import FLOATS, NotForJson, NotThisProtocol, Tensor, flat, unpack

WHOLE_INPUT, WHOLE_OUTPUT = "input", "output"
"""Names of the tensor that is the whole input, and of the one that is the whole output."""
CONTENT_TYPE = "content_type"
"""The parameter by which MLServer's clients say how a tensor's values are meant."""
_LISTS_MAX = 10_000
"""Nested lists that the shapes of a request may mean beyond one for each value: a few bytes of shape can mean millions."""
_INT64 = range(-(2**63), 2**63)


def input_of(tensors: Sequence[Tensor], schema: Mapping[str, Any], content_type: Any = None) -> Any:
    """Return the JSON input that the tensors are. `content_type` is that of the request, for tensors without their own.

    Raise NotThisProtocol, which names the tensor, for what cannot be JSON.
    """
    shapes = shapes_of(schema)
    made: dict[str, Any] = {}
    lists = 0
    for number, tensor in enumerate(tensors):
        where = f"inputs[{number}]"
        meant = tensor.parameters.get(CONTENT_TYPE, content_type)
        is_whole = len(tensors) == 1 and _is_whole(tensor, shapes, meant)
        kind = shapes.whole if is_whole else shapes.fields.get(tensor.name)
        shape = _squeezed(tensor.shape, kind)
        lists += max(0, _lists_in(shape) - tensor.count)
        if lists > _LISTS_MAX:
            raise NotThisProtocol(f"{where}.shape: means more than {_LISTS_MAX} lists beyond one for each value")
        if is_whole:
            return _value(tensor, kind, shape, meant, where)
        if tensor.name in made:
            raise NotThisProtocol(f"{where}.name: {tensor.name[:100]!r} is given twice")
        made[tensor.name] = _value(tensor, kind, shape, meant, where)
    return made


def _is_whole(tensor: Tensor, shapes: Shapes, meant: Any) -> bool:
    """Say whether the only tensor of a request is the whole input, and not one field of it."""
    if tensor.name in shapes.fields:
        return False
    if shapes.whole is not None and not shapes.whole.is_json:
        return True
    return tensor.name == WHOLE_INPUT or (meant == "json" and tensor.count == 1)


def _value(tensor: Tensor, kind: Kind | None, shape: list[int], meant: Any, where: str) -> Any:
    is_text = tensor.datatype == "BYTES"
    if is_text and (meant == "json" or (kind is not None and kind.is_json and tensor.count == 1)):
        found = [_parsed(text, where) for text in _texts(tensor, where)]
        return found[0] if tensor.count == 1 else found
    if is_text and kind is not None and kind.is_base64 and meant != "base64":
        values: list[Any] = [base64.b64encode(text).decode() for text in _bytes(tensor, where)]
    else:
        values = _texts(tensor, where) if is_text else _numbers(tensor, where)
    return _nested(values, shape)


def _parsed(text: str, where: str) -> Any:
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise NotThisProtocol(f"{where}: is not JSON: {str(error)[:200]}") from None


def _numbers(tensor: Tensor, where: str) -> list[Any]:
    try:
        values = tensor.values(where)
    except NotForJson as error:
        raise NotThisProtocol(f"{error}; this engine takes JSON") from None
    # The values of JSON are not checked by a form, as those of raw bytes are.
    kinds: tuple[type, ...] = (
        (bool,) if tensor.datatype == "BOOL" else (int, float) if tensor.datatype in FLOATS else (int,)
    )
    for value in values:
        if not isinstance(value, kinds) or (isinstance(value, bool) and tensor.datatype != "BOOL"):
            raise NotThisProtocol(f"{where}.data: a value is not of datatype {tensor.datatype}")
        if type(value) is int and not -NUMBER_MAX <= value <= NUMBER_MAX:
            raise NotThisProtocol(f"{where}.data: a number is too large")
    return values


def _texts(tensor: Tensor, where: str) -> list[str]:
    try:
        values = tensor.values(where)
    except NotForJson as error:
        raise NotThisProtocol(f"{error}; this engine takes JSON: send bytes as base64 text") from None
    if not all(isinstance(value, str) for value in values):
        raise NotThisProtocol(f"{where}.data: a value is not of datatype BYTES, which is text in JSON")
    return values


def _bytes(tensor: Tensor, where: str) -> list[bytes]:
    return unpack("BYTES", tensor.content(where), where)


def _squeezed(shape: tuple[int, ...], kind: Kind | None) -> list[int]:
    """Return the shape without dimensions of one value that the schema does not have: first in front, then behind."""
    left = list(shape)
    if kind is None or kind.is_json:
        return left
    for place in (0, -1):
        while len(left) > len(kind.sizes) and left[place] == 1:
            left.pop(place)
    return left


def _lists_in(shape: list[int]) -> int:
    """Return how many lists are inside the outermost list of a value of this shape."""
    return sum(itertools.accumulate(shape[:-1], operator.mul))


def _nested(values: list[Any], shape: Sequence[int]) -> Any:
    """Return flat values as nested lists."""
    if not shape:
        return values[0]
    for size in reversed(shape[1:]):
        values = _parts(values, size, shape)
    return values


def _parts(values: list[Any], size: int, shape: Sequence[int]) -> list[Any]:
    if size:
        return [values[at : at + size] for at in range(0, len(values), size)]
    return [[] for _ in range(math.prod(shape[: shape.index(0)]))]


def outputs_of(value: Any, schema: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that a JSON output is: one for each field of an object, and otherwise one."""
    shapes = shapes_of(schema)
    if isinstance(value, dict) and value:
        return [_tensor(name, part, shapes.fields.get(name)) for name, part in value.items()]
    return [_tensor(WHOLE_OUTPUT, value, shapes.whole)]


def _tensor(name: str, value: Any, kind: Kind | None) -> Tensor:
    derived = kind if kind is not None and not kind.is_json else None
    sizes = [] if (derived is not None and not derived.sizes) else _sizes(value)
    values = [value] if not isinstance(value, list) else list(flat(value))
    is_regular = sizes is not None and (not isinstance(value, list) or math.prod(sizes) == len(values))
    datatype = _datatype(values, derived) if is_regular and (kind is None or derived is not None) else None
    if datatype is None or sizes is None:
        text = pydantic_core.to_json(value).decode()
        return Tensor(name, "BYTES", (1,), data=[text], parameters={CONTENT_TYPE: "json"})
    parameters = {CONTENT_TYPE: "base64"} if derived is not None and derived.is_base64 else {}
    return Tensor(name, datatype, tuple(sizes) or (1,), data=values, parameters=parameters)


def _sizes(value: Any) -> list[int] | None:
    """Return the sizes of nested lists, by their first items; [] for what is no list; None if they differ."""
    sizes: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        size = len(level[0])
        if any(not isinstance(item, list) or len(item) != size for item in level):
            return None
        sizes.append(size)
        level = [inner for item in level for inner in item]
    return None if any(isinstance(item, list) for item in level) else sizes


def _datatype(values: list[Any], kind: Kind | None) -> str | None:
    """Return the datatype of values: that of the schema if they fit it, and otherwise their own. None: only JSON."""
    found = set(map(type, values))
    if not found:
        return kind.datatype if kind else "FP64"
    if found <= {int, float} and (found != {int} or (kind is not None and kind.datatype == "FP64")):
        return "FP64"
    if found == {int}:
        return "INT64" if all(value in _INT64 for value in values) else None
    return {bool: "BOOL", str: "BYTES"}.get(found.pop()) if len(found) == 1 else None
