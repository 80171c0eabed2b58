"""Finds the schemas of an engine's input and output in its OpenAPI, and makes each complete by itself, within bounds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pydantic_core

from enginehouse.contracts.engine import CARD_MAX_BYTES, CARD_MAX_DEPTH
from enginehouse.json_schema import UnusableSchema, compiled, measure

_COMPONENTS = "#/components/schemas/"
_MAX_NODES = 20_000


class Description(NamedTuple):
    """What an engine says of itself, not yet bounded. Whatever it does not say is empty."""

    input_schema: Any = {}
    """JSON Schema of an input. It may refer to components of `openapi`."""
    output_schema: Any = {}
    example: Any = None
    openapi: Mapping[str, Any] | None = None


def described_by(openapi: Mapping[str, Any]) -> Description:
    """Return what the OpenAPI of an engine with POST /predict says."""
    return Description(*predict_schemas(openapi), openapi)


def predict_schemas(openapi: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return the schema of `data`, the schema of `result` and an example of `data`; {}, {} and None if not described."""
    operation = _object_at(openapi, "paths", "/predict", "post")
    body = _json_content(_object_at(operation, "requestBody", "content"))
    answer = _json_content(_object_at(operation, "responses", "200", "content"))
    request = _resolve(openapi, _object_at(body, "schema"))
    result = _resolve(openapi, _object_at(answer, "schema"))
    data = _object_at(request, "properties", "data")
    return data or {}, _object_at(result, "properties", "result") or {}, _example(openapi, body, request, data)


class BatchOffer(NamedTuple):
    """The batches that an engine takes, by its description."""

    batches: bool
    """Whether it has POST /predict/batch."""
    parameters: bool
    """Whether that takes `parameters`."""


NO_BATCHES = BatchOffer(batches=False, parameters=False)


def batch_offer(openapi: Mapping[str, Any]) -> BatchOffer:
    """Return the batches that the engine takes."""
    operation = _object_at(openapi, "paths", "/predict/batch", "post")
    request = _resolve(openapi, _object_at(_json_content(_object_at(operation, "requestBody", "content")), "schema"))
    return BatchOffer(batches=bool(operation), parameters="parameters" in _object_at(request, "properties"))


def stand_alone(schema: Any, openapi: Mapping[str, Any]) -> dict[str, Any]:
    """Return `schema` with every component it refers to in its own `$defs`; raise UnusableSchema if it refers elsewhere."""
    if not isinstance(schema, dict):
        return {}
    components = _object_at(openapi, "components", "schemas")
    definitions: dict[str, Any] = {}
    wanted: list[str] = []
    budget = [_MAX_NODES]
    whole = _convert(schema, wanted, 0, budget)
    while wanted:
        name = wanted.pop()
        if name in definitions:
            continue
        found = components.get(name)
        if found is None:
            raise UnusableSchema(f"its $ref to component {name[:100]!r} leads nowhere")
        definitions[name] = _convert(found, wanted, 0, budget)
    if definitions:
        own = whole.get("$defs", {})
        if not isinstance(own, dict):
            raise UnusableSchema("its $defs must be an object")
        whole = {**whole, "$defs": {**own, **definitions}}
    _check(whole)
    return dict(whole)


def _check(schema: Any) -> None:
    if depth(schema) > CARD_MAX_DEPTH - 2:
        raise UnusableSchema(f"it is nested more than {CARD_MAX_DEPTH - 2} deep")
    if len(pydantic_core.to_json(schema)) > CARD_MAX_BYTES:
        raise UnusableSchema(f"it is larger than {CARD_MAX_BYTES} bytes")
    measure(schema)
    compiled(schema)


def depth(value: Any) -> int:
    """Return how deep objects and lists are nested; 0 for a plain value."""
    deepest, level, here = 0, 0, [value]
    while here:
        here = [
            child
            for node in here
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        level += 1
        deepest = level if here else deepest
        if level > 10 * CARD_MAX_DEPTH:
            break
    return deepest


def _convert(node: Any, wanted: list[str], level: int, budget: list[int]) -> Any:
    """Return a copy whose component references are `$defs` references, and add their names to `wanted`."""
    budget[0] -= 1
    if budget[0] < 0 or level > CARD_MAX_DEPTH:
        raise UnusableSchema("it is too large or nested too deep")
    if isinstance(node, list):
        return [_convert(item, wanted, level + 1, budget) for item in node]
    if not isinstance(node, dict):
        return node
    copy = {key: _convert(value, wanted, level + 1, budget) for key, value in node.items()}
    reference = node.get("$ref")
    if isinstance(reference, str):
        if reference.startswith(_COMPONENTS):
            wanted.append(reference.removeprefix(_COMPONENTS))
            copy["$ref"] = "#/$defs/" + reference.removeprefix(_COMPONENTS)
        elif not reference.startswith("#/$defs/"):
            raise UnusableSchema(f"its $ref {reference[:100]!r} is not one inside the same description")
    if copy.pop("nullable", None) is True and isinstance(copy.get("type"), str):
        copy["type"] = [copy["type"], "null"]  # OpenAPI 3.0 writes it like this.
    return copy


def _object_at(node: Any, *path: str) -> Any:
    """Return the object at `path`, or {} if there is none."""
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _json_content(content: Any) -> Any:
    return _object_at(content, "application/json") or _object_at(content, "application/x-ndjson")


def _resolve(openapi: Mapping[str, Any], schema: Any) -> Any:
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith(_COMPONENTS):
        return _object_at(openapi, "components", "schemas", reference.removeprefix(_COMPONENTS))
    return schema


def _example(openapi: Mapping[str, Any], body: Any, request: Any, data: Any) -> Any:
    """Return the first example of `data` that the description gives anywhere, or None."""
    whole = [body.get("example"), request.get("example"), *_as_list(request.get("examples"))]
    for example in whole:
        if isinstance(example, dict) and "data" in example:
            return example["data"]
    for schema in (data, _resolve(openapi, data)):
        for example in (schema.get("example"), *_as_list(schema.get("examples"))):
            if example is not None:
                return example
    return None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
