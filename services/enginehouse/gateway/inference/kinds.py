"""Finds out from a JSON Schema which tensor a value of it is."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_DEPTH_MAX = 32
_SCALARS = {"string": "BYTES", "integer": "INT64", "number": "FP64", "boolean": "BOOL"}


class Kind(NamedTuple):
    """Which tensor a value is."""

    datatype: str
    sizes: tuple[int, ...] = ()
    """Of each dimension of a list; -1 may be any. A single value has none."""
    is_json: bool = False
    """Whether it has no other form than JSON text, in a tensor of one text."""
    is_base64: bool = False
    """Whether its texts are bytes as base64."""

    @property
    def shape(self) -> list[int]:
        """Return the shape of its tensor."""
        return list(self.sizes) or [1]


JSON = Kind("BYTES", is_json=True)


class Shapes(NamedTuple):
    """What the schema of an input or an output says about tensors."""

    whole: Kind | None
    """The kind of the value as a whole. None: the schema says nothing."""
    fields: dict[str, Kind | None]
    """The kinds of the fields of an object, by name."""


def shapes_of(schema: Mapping[str, Any]) -> Shapes:
    """Return what a schema says. Whatever it does not say clearly is JSON text."""
    fields: dict[str, Kind | None] = {}
    root = _resolved(schema, schema, 0)
    if isinstance(root, Mapping) and isinstance(root.get("properties"), Mapping):
        fields = {name: kind_of(part, schema, 1) for name, part in root["properties"].items()}
    return Shapes(kind_of(schema, schema, 0), fields)


def kind_of(node: Any, root: Mapping[str, Any], depth: int) -> Kind | None:
    """Return the kind of what fits the schema `node` of the document `root`; None if it says nothing."""
    node = _resolved(node, root, depth)
    if depth > _DEPTH_MAX:
        return JSON
    if not isinstance(node, Mapping) or not node.keys() & {"type", "enum", "const", "anyOf", "oneOf", "allOf"}:
        return None
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(node.get(key), list):
            return _common(list(_kinds_of_all(node[key], root, depth)))
    types = node.get("type")
    if types is None:
        return _common(
            [_kind_of_constant(value) for value in node.get("enum", [node.get("const")]) if value is not None]
        )
    names = [name for name in ([types] if isinstance(types, str) else types) if name != "null"]
    return _common([_kind_of_type(name, node, root, depth) for name in names])


def _kinds_of_all(parts: list[Any], root: Mapping[str, Any], depth: int) -> Iterator[Kind | None]:
    for part in parts:
        found = _resolved(part, root, depth)
        if not (isinstance(found, Mapping) and found.get("type") == "null"):
            yield kind_of(found, root, depth + 1)


def _kind_of_type(name: Any, node: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Kind:
    if name == "array":
        return _kind_of_list(node, root, depth)
    if name == "string":
        return Kind("BYTES", is_base64="base64" in (node.get("contentEncoding"), node.get("format")))
    return Kind(_SCALARS[name]) if name in _SCALARS else JSON


def _kind_of_list(node: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Kind:
    items, first = node.get("items"), node.get("prefixItems")
    size = node.get("minItems", -1)
    if isinstance(first, list):
        inner = _common([kind_of(part, root, depth + 1) for part in first[:_DEPTH_MAX]])
        size = len(first) if items is False else -1
    else:
        inner = kind_of(items, root, depth + 1)
        size = size if size == node.get("maxItems") else -1
    if inner is None or inner.is_json:
        return JSON
    return inner._replace(sizes=(size if type(size) is int else -1, *inner.sizes))


def _kind_of_constant(value: Any) -> Kind:
    if isinstance(value, bool):
        return Kind("BOOL")
    return {str: Kind("BYTES"), int: Kind("INT64"), float: Kind("FP64")}.get(type(value), JSON)


def _common(kinds: list[Kind | None]) -> Kind | None:
    """Return the kind that all are; JSON if they differ."""
    found = {kind for kind in kinds if kind is not None}
    if (
        len(found) == 2
        and {kind.datatype for kind in found} == {"INT64", "FP64"}
        and len({k.sizes for k in found}) == 1
    ):
        return next(kind for kind in found if kind.datatype == "FP64")
    if len(found) == 1 and None not in kinds:
        return found.pop()
    return JSON if found else None


def _resolved(node: Any, root: Mapping[str, Any], depth: int) -> Any:
    """Follow local references. One that leads nowhere, or in a circle, says nothing."""
    for _ in range(_DEPTH_MAX):
        reference = node.get("$ref") if isinstance(node, Mapping) else None
        if not isinstance(reference, str):
            return node
        found: Any = root
        for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            key = part.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, Mapping) else None
        node = found
    return None
