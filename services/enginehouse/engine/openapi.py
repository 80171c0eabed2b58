"""Write the engine's OpenAPI document with the exact schemas of `data` and `result`."""

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from enginehouse.engine.signature import Method, Signature

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "retryable"],
            "properties": {"message": {"type": "string"}, "retryable": {"type": "boolean"}},
        }
    },
}

_LINES = {
    "type": "object",
    "description": "A line for each progress, output, log or metric. The last line is the result or an error.",
}


def add_predict(document: dict[str, Any], signature: Signature) -> dict[str, Any]:
    """Add the operations of the engine's methods to an OpenAPI document, and return it.

    Bodies are written in place, without `$ref`. So `data` is always at
    `…requestBody.content.application/json.schema.properties.data`, and `result` at
    `…responses.200.content.application/json.schema.properties.result`. Models inside these are `$ref` to
    `#/components/schemas`.
    """
    schemas, definitions = _schemas(signature)
    paths = document.setdefault("paths", {})
    takes, gives = schemas["predict", "validation"], schemas["predict", "serialization"]
    request = _object(["data"], data=takes, id={"type": "string"})
    if ("parameters", "validation") in schemas:
        request["properties"]["parameters"] = schemas["parameters", "validation"]
    paths["/predict"] = _post("Answer one input", request, _object(["result"], result=gives))
    if signature.predict.streams:
        paths["/predict"]["post"]["responses"]["200"]["content"]["application/x-ndjson"] = {"schema": _LINES}
    if signature.batch:
        ids = {"type": "array", "items": {"type": "string"}}
        batch = _object(["data"], data={"type": "array", "items": takes}, ids=ids)
        if ("batch parameters", "validation") in schemas:
            batch["properties"]["parameters"] = schemas["batch parameters", "validation"]
        item = {"anyOf": [_object(["result"], result=gives), _ERROR]}
        answers = _object(["results"], results={"type": "array", "items": item})
        paths["/predict/batch"] = _post("Answer several inputs at once", batch, answers)
    if signature.update:
        answer = _object(["result"], result=schemas["update", "serialization"])
        paths["/update"] = _post("Reload a model, a dataset or settings", schemas["update", "validation"], answer)
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions)
    return document


def _schemas(signature: Signature) -> tuple[dict[tuple[str, str], Any], dict[str, Any]]:
    wanted: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = []

    def want(name: str, method: Method) -> None:
        wanted.append((name, "validation", TypeAdapter(method.input_type)))
        wanted.append((name, "serialization", TypeAdapter(method.result_type)))

    want("predict", signature.predict)
    if signature.predict.parameters is not None:
        wanted.append(("parameters", "validation", TypeAdapter(signature.predict.parameters)))
    if signature.update:
        want("update", signature.update)
    if signature.batch and signature.batch.parameters is not None:
        wanted.append(("batch parameters", "validation", TypeAdapter(signature.batch.parameters)))
    schemas, shared = TypeAdapter.json_schemas(wanted, ref_template=_REF)
    definitions: dict[str, Any] = shared.get("$defs", {})
    return {(name, mode): schema for (name, mode), schema in schemas.items()}, definitions


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _post(summary: str, takes: dict[str, Any], gives: dict[str, Any]) -> dict[str, Any]:
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": takes}}},
            "responses": {
                "200": _json("The answer", gives),
                "422": _json("This input can never work: do not try again", _ERROR),
                "500": _json("The prediction failed: trying again may help", _ERROR),
                "503": _json("The engine is still loading: try again in a moment", _ERROR),
            },
        }
    }
