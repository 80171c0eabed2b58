"""Describes for the OpenAPI document what routes read and answer without the framework: bodies, headers, problems."""

from typing import Any

from pydantic import BaseModel

from enginehouse.gateway.http.problems import PROBLEM_TYPE, Problem

_HEADER_PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Prefer": (
        "`wait=SECONDS` (at most 60) holds the answer until the job has ended; `respond-async` does not.",
        {"type": "string"},
    ),
    "Idempotency-Key": (
        "Makes the call safe to repeat: the same key with the same request is the same job.",
        {"type": "string", "minLength": 1, "maxLength": 250},
    ),
    "traceparent": ("The caller's trace (W3C Trace Context); it travels with the job.", {"type": "string"}),
    "Last-Event-ID": ("Resume after this event.", {"type": "string"}),
    "WebHook-Request-Origin": (
        "The DNS name of the sender that asks to deliver events.",
        {"type": "string", "pattern": "^[A-Za-z0-9._:*-]{1,255}$"},
    ),
    "WebHook-Request-Rate": ("Deliveries a minute that the sender would like.", {"type": "string"}),
}
_SUBMIT_HEADERS = ("Idempotency-Key", "traceparent")
LOCATION = {"Location": {"description": "Where to read the job.", "schema": {"type": "string"}}}
_REQUEST_ID = {"description": "Names the request: the caller's own id, or a new one.", "schema": {"type": "string"}}
_RETRY_AFTER = {"description": "Seconds to wait before the next try.", "schema": {"type": "integer", "minimum": 1}}
_BEARER = {"description": "`Bearer`: how to show a key.", "schema": {"type": "string"}}


def parameters(*names: str) -> dict[str, Any]:
    """Describe headers that a route reads."""

    def parameter(name: str) -> dict[str, Any]:
        description, schema = _HEADER_PARAMETERS[name]
        required = name == "WebHook-Request-Origin"
        return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}

    return {"parameters": [parameter(name) for name in names]}


def submit_parameters(*more: str) -> dict[str, Any]:
    """Describe the headers of each call that makes jobs, and `more` headers."""
    return parameters(*_SUBMIT_HEADERS, *more)


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
