"""Describes for the OpenAPI document the headers that the routes of the gateway read and answer."""

from typing import Any

MAX_KEY_LENGTH = 255
"""Most characters of an Idempotency-Key."""
_HEADER_PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Prefer": (
        "`wait=SECONDS` (at most 60) holds the answer until the job has ended; `respond-async` does not.",
        {"type": "string"},
    ),
    "Idempotency-Key": (
        "Makes the call safe to repeat: the same key with the same request is the same job.",
        {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
    ),
    "traceparent": ("The caller's trace (W3C Trace Context); it travels with the job.", {"type": "string"}),
    "Last-Event-ID": ("Resume after this event.", {"type": "string"}),
    "WebHook-Request-Origin": (
        "The DNS name of the sender that asks to deliver events.",
        {"type": "string", "pattern": "^[A-Za-z0-9._:*-]{1,255}$"},
    ),
    "WebHook-Request-Rate": ("Deliveries a minute that the sender would like.", {"type": "string"}),
}
LOCATION = {"Location": {"description": "Where to read the job.", "schema": {"type": "string"}}}


def parameters(*names: str) -> dict[str, Any]:
    """Describe headers that a route reads."""

    def parameter(name: str) -> dict[str, Any]:
        description, schema = _HEADER_PARAMETERS[name]
        required = name == "WebHook-Request-Origin"
        return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}

    return {"parameters": [parameter(name) for name in names]}


def submit_parameters(*more: str, longest_key: int = MAX_KEY_LENGTH) -> dict[str, Any]:
    """Describe the headers of each call that makes jobs, and `more` headers."""
    described = parameters("Idempotency-Key", "traceparent", *more)
    key = described["parameters"][0]
    key["schema"] = {**key["schema"], "maxLength": longest_key}
    return described
