"""Shows an engine's inputs and outputs as tensors, from the schemas on its card."""

from collections.abc import Mapping
from typing import Any, TypedDict

from enginehouse.contracts.engine import EngineCard
from enginehouse.gateway.inference.kinds import JSON, Kind, shapes_of
from enginehouse.gateway.inference.plain import CONTENT_TYPE, WHOLE_INPUT, WHOLE_OUTPUT
from enginehouse.open_inference.tensors import FORMS


class TensorMetadata(TypedDict, total=False):
    """A tensor that a model takes or gives."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str]


def inputs_of(card: EngineCard) -> list[TensorMetadata]:
    """Return the tensors that the engine takes."""
    if card.speaks_tensors:
        return _tensors_in(card.input_schema, "inputs")
    return _plain(card.input_schema, WHOLE_INPUT)


def outputs_of(card: EngineCard) -> list[TensorMetadata]:
    """Return the tensors that the engine gives."""
    if card.speaks_tensors:
        return _tensors_in(card.output_schema, "outputs")
    return _plain(card.output_schema, WHOLE_OUTPUT)


def known_outputs(card: EngineCard) -> list[str]:
    """Return the names of the tensors that the engine gives; none if its card does not tell all of them."""
    if card.speaks_tensors:
        return _at(card.output_schema, "properties", "outputs", "items", "properties", "name", "enum") or []
    shapes = shapes_of(card.output_schema)
    if shapes.fields:
        return [] if card.output_schema.get("additionalProperties") else list(shapes.fields)
    # What is JSON as a whole may be an object, whose fields nobody knows.
    return [WHOLE_OUTPUT] if shapes.whole and not shapes.whole.is_json else []


def _plain(schema: Mapping[str, Any], whole: str) -> list[TensorMetadata]:
    shapes = shapes_of(schema)
    if shapes.fields:
        return [_shown(name, kind or JSON) for name, kind in shapes.fields.items()]
    return [_shown(whole, shapes.whole or JSON)]


def _shown(name: str, kind: Kind) -> TensorMetadata:
    made = TensorMetadata(name=name, datatype=kind.datatype, shape=kind.shape)
    meant = "json" if kind.is_json else "base64" if kind.is_base64 else None
    return TensorMetadata(**made, parameters={CONTENT_TYPE: meant}) if meant else made


def _tensors_in(schema: Mapping[str, Any], part: str) -> list[TensorMetadata]:
    """Read the tensors in the schema that the runner made of a server's own metadata; none if it knows none."""
    items = _at(schema, "properties", part, "items")
    found = []
    for branch in items.get("allOf", ()) if isinstance(items, Mapping) else ():
        name = _at(branch, "if", "properties", "name", "const")
        own = _at(branch, "then", "properties")
        datatype = _at(own, "datatype", "const")
        if isinstance(name, str) and isinstance(datatype, str) and datatype in FORMS:
            sizes = _at(own, "shape", "prefixItems")
            shape = [_at(size, "const") for size in sizes] if isinstance(sizes, list) else [None]
            found.append(
                TensorMetadata(name=name, datatype=datatype, shape=[s if type(s) is int else -1 for s in shape])
            )
    return found


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
