"""Writes one engine's OpenAPI document: our own call with its schemas, and its extra endpoints under `/call`."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from enginehouse.contracts.calls import METHODS, check_call_path
from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.kept_json import parsed
from enginehouse.contracts.text import clean_lines

_PATHS_MAX = 100
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_TEXT_MAX_CHARS = 500
_COMPONENTS = "#/components/schemas/"
_PARAMETER_PLACES = ("path", "query", "header")
_TEXTS = frozenset(("title", "description", "$comment"))
_OF_NAMES = frozenset(("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"))
_DATA = frozenset(("default", "example", "examples", "enum", "const"))
_ERROR = {"type": "object", "properties": {"code": {"type": "string"}, "detail": {"type": "string"}}}


def engine_document(engine_id: str, card: EngineCard, *, with_calls: bool) -> dict[str, Any]:
    """Return the document. Whatever comes from the engine is data: texts are escaped, references lead nowhere else.

    Its size is bounded by the card's. Leave out the extra endpoints for those who may not call them.
    """
    schemas = {
        "Input": _schema(card.input_schema, f"{_COMPONENTS}Input/"),
        "Output": _schema(card.output_schema, f"{_COMPONENTS}Output/"),
    }
    paths: dict[str, Any] = {f"/v1/engines/{engine_id}/jobs": {"post": _submit(card)}}
    if with_calls:
        paths |= {
            f"/v1/engines/{engine_id}/call{path}": operations for path, operations in extra_endpoints(card).items()
        }
        for name, schema in _components(card).items():
            if _NAME.fullmatch(name):
                schemas[f"engine.{name}"] = _schema(schema, _COMPONENTS)
    return {
        "openapi": "3.1.0",
        "info": {"title": engine_id, "version": card.version, "description": plain(card.description)},
        "security": [{"key": []}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def extra_endpoints(card: EngineCard) -> dict[str, dict[str, Any]]:
    """Return the engine's own endpoints that can be called, as its description has them: their operations by path."""
    found: dict[str, dict[str, Any]] = {}
    for path, operations in _object(_openapi(card).get("paths")).items():
        if len(found) < _PATHS_MAX and isinstance(path, str) and _can_be_called(path):
            shown = {
                method.lower(): _operation(operation)
                for method in METHODS
                if isinstance(operation := _object(operations).get(method.lower()), dict)
            }
            if shown:
                found[path] = shown
    return found


def plain(text: Any) -> str:
    """Return an engine's text for a place where Markdown, and so HTML, would be understood."""
    return escape(clean_lines(text[:_TEXT_MAX_CHARS]), quote=False) if isinstance(text, str) else ""


def _can_be_called(path: str) -> bool:
    try:
        return path.startswith("/") and len(path) <= _TEXT_MAX_CHARS and bool(check_call_path(path.removeprefix("/")))
    except RequestError:
        return False


def _submit(card: EngineCard) -> dict[str, Any]:
    body: dict[str, Any] = {
        "schema": {
            "type": "object",
            "required": ["input"],
            "properties": {"input": {"$ref": f"{_COMPONENTS}Input"}},
            "description": "More fields, such as webhook and priority: the gateway's own /openapi.json.",
        }
    }
    if card.example is not None:
        body["example"] = {"input": card.example}
    job = {"type": "object", "properties": {"id": {"type": "string"}, "output": {"$ref": f"{_COMPONENTS}Output"}}}
    wait = {"name": "Prefer", "in": "header", "schema": {"type": "string"}, "description": "wait=SECONDS, at most 60"}
    return {
        "summary": "Submit a job",
        "operationId": "submit",
        "parameters": [wait],
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {
            "200": _answer("The job has ended in the time that Prefer names.", job),
            "202": _answer("The job is accepted.", job),
            "422": _answer("The input does not fit the schema.", _ERROR),
        },
    }


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "summary": plain(operation.get("summary")),
        "description": plain(operation.get("description")),
        "responses": {
            str(status)[:20]: {"description": plain(_object(answer).get("description")), **_content(answer)}
            for status, answer in _object(operation.get("responses")).items()
        }
        or {"default": {"description": "The engine's own answer."}},
    }
    parameters = operation.get("parameters")
    if isinstance(parameters, list):
        shown["parameters"] = [
            {
                "name": str(one.get("name"))[:100],
                "in": one["in"],
                "required": one["in"] == "path" or one.get("required") is True,
                "description": plain(one.get("description")),
                "schema": _schema(one.get("schema"), _COMPONENTS),
            }
            for one in parameters
            if isinstance(one, dict) and one.get("in") in _PARAMETER_PLACES
        ]
    if body := _content(operation.get("requestBody")):
        shown["requestBody"] = body
    return shown


def _content(holder: Any) -> dict[str, Any]:
    content = _object(_object(holder).get("content"))
    if not content:
        return {}
    return {
        "content": {
            str(kind)[:100]: {"schema": _schema(_object(body).get("schema"), _COMPONENTS)}
            for kind, body in content.items()
        }
    }


def _components(card: EngineCard) -> dict[str, Any]:
    return _object(_object(_openapi(card).get("components")).get("schemas"))


def _openapi(card: EngineCard) -> dict[str, Any]:
    return parsed(card.openapi) if card.openapi else {}


def _schema(schema: Any, base: str) -> Any:
    """Return a schema whose texts are escaped and whose references begin at `base`; the others are left out."""
    if isinstance(schema, list):
        return [_schema(one, base) for one in schema]
    if not isinstance(schema, dict):
        return schema
    shown: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _TEXTS:
            shown[key] = plain(value)
        elif key == "$ref":
            if (target := _target(value, base)) is not None:
                shown[key] = target
        elif key in _DATA:
            shown[key] = value
        elif key in _OF_NAMES:
            shown[key] = {name: _schema(one, base) for name, one in _object(value).items()}
        elif not key.startswith(("$", "x-")) or key == "$defs":
            shown[key] = _schema(value, base)
    return shown


def _target(reference: Any, base: str) -> str | None:
    if not isinstance(reference, str):
        return None
    if reference.startswith("#/$defs/"):
        return base + reference.removeprefix("#/") if base != _COMPONENTS else None
    if reference.startswith(_COMPONENTS) and _NAME.fullmatch(reference.removeprefix(_COMPONENTS)):
        return f"{_COMPONENTS}engine.{reference.removeprefix(_COMPONENTS)}"
    return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
