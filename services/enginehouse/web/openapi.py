"""Describes for an OpenAPI document what routes read and answer without the framework: bodies, problems, headers."""

from typing import Any

from pydantic import BaseModel

from enginehouse.web.problems import PROBLEM_TYPE, Problem

_REQUEST_ID = {"description": "Names the request: the caller's own id, or a new one.", "schema": {"type": "string"}}
_RETRY_AFTER = {"description": "Seconds to wait before the next try.", "schema": {"type": "integer", "minimum": 1}}
_BEARER = {"description": "`Bearer`: how to show a key.", "schema": {"type": "string"}}


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that `read_model` reads."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": model.model_json_schema(ref_template="#/components/schemas/{model}")}
            },
        }
    }


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe a route's errors."""
    return {
        status: {"model": Problem, "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
        for status in (400, 401, 422, 500, 503, *statuses)
    }


def add_answered_headers(document: dict[str, Any]) -> None:
    """Add to each answer in an OpenAPI document the headers that its status brings."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                headers = answer.setdefault("headers", {})
                headers["X-Request-Id"] = _REQUEST_ID
                if status in ("429", "503"):
                    headers["Retry-After"] = _RETRY_AFTER
                if status == "401":
                    headers["WWW-Authenticate"] = _BEARER
