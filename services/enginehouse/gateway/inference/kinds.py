"""Finds out from a JSON Schema which tensor a value of it is."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import pydantic_core

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
_CONSTANTS = {bool: Kind("BOOL"), str: Kind("BYTES"), int: Kind("INT64"), float: Kind("FP64")}


class Shapes(NamedTuple):
    """What the schema of an input or an output says about tensors."""

    whole: Kind | None
    """The kind of the value as a whole. None: the schema says nothing."""
    fields: dict[str, Kind | None]
    """The kinds of the fields of an object, by name."""


def shapes_of(schema: Mapping[str, Any]) -> Shapes:
    """Return what a schema says. Whatever it does not say clearly is JSON text.

    Schemas come from tenants: the work is linear in the size of the schema, however its references run.
    """
    return _shapes_of(pydantic_core.to_json(schema))


@lru_cache(maxsize=128)
def _shapes_of(schema_json: bytes) -> Shapes:
    schema = pydantic_core.from_json(schema_json)
    reader = _Reader(schema)
    fields: dict[str, Kind | None] = {}
    root = reader.resolved(schema)
    if isinstance(root, Mapping) and isinstance(root.get("properties"), Mapping):
        fields = {name: reader.kind_of(part, 1) for name, part in root["properties"].items()}
    return Shapes(reader.kind_of(schema, 0), fields)


class _Reader:
    """Reads the parts of one schema, each of them once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._targets: dict[str, Any] = {}
        """What each reference leads to."""
        self._kinds: dict[int, Kind | None] = {}
        """By the identity of the part. A part that is being read counts as JSON: no tensor holds itself."""

    def kind_of(self, node: Any, depth: int) -> Kind | None:
        """Return the kind of what fits the part `node`; None if it says nothing."""
        node = self.resolved(node)
        if depth > _DEPTH_MAX:
            return JSON
        if not isinstance(node, Mapping) or not node.keys() & {"type", "enum", "const", "anyOf", "oneOf", "allOf"}:
            return None
        if id(node) not in self._kinds:
            self._kinds[id(node)] = JSON
            self._kinds[id(node)] = self._read(node, depth)
        return self._kinds[id(node)]

    def _read(self, node: Mapping[str, Any], depth: int) -> Kind | None:
        for key in ("anyOf", "oneOf", "allOf"):
            if isinstance(node.get(key), list):
                return _common(list(self._kinds_of_all(node[key], depth)))
        types = node.get("type")
        if types is None:
            constants = _list(node.get("enum", [node.get("const")]))
            return _common([_CONSTANTS.get(kind, JSON) for kind in set(map(type, constants)) - {type(None)}])
        names = {name if isinstance(name, str) else "unknown" for name in _list(types)}
        return _common([self._kind_of_type(name, node, depth) for name in names - {"null"}])

    def _kinds_of_all(self, parts: list[Any], depth: int) -> Iterator[Kind | None]:
        for part in parts:
            found = self.resolved(part)
            if not (isinstance(found, Mapping) and found.get("type") == "null"):
                yield self.kind_of(found, depth + 1)

    def _kind_of_type(self, name: str, node: Mapping[str, Any], depth: int) -> Kind:
        if name == "array":
            return self._kind_of_list(node, depth)
        if name == "string":
            return Kind("BYTES", is_base64="base64" in (node.get("contentEncoding"), node.get("format")))
        return Kind(_SCALARS[name]) if name in _SCALARS else JSON

    def _kind_of_list(self, node: Mapping[str, Any], depth: int) -> Kind:
        items, first = node.get("items"), node.get("prefixItems")
        size = node.get("minItems", -1)
        if isinstance(first, list):
            inner = _common([self.kind_of(part, depth + 1) for part in first])
            size = len(first) if items is False else -1
        else:
            inner = self.kind_of(items, depth + 1)
            size = size if size == node.get("maxItems") else -1
        if inner is None or inner.is_json:
            return JSON
        return inner._replace(sizes=(size if type(size) is int else -1, *inner.sizes))

    def resolved(self, node: Any) -> Any:
        """Follow local references. One that leads nowhere, or in a circle, says nothing."""
        for _ in range(_DEPTH_MAX):
            reference = node.get("$ref") if isinstance(node, Mapping) else None
            if not isinstance(reference, str):
                return node
            if reference not in self._targets:
                self._targets[reference] = _target(self._root, reference)
            node = self._targets[reference]
        return None


def _target(root: Mapping[str, Any], reference: str) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
        key = part.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


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
