"""A JSON object that is kept as text, because it is large and seldom read: parsed, it takes ten times the memory."""

from typing import Annotated, Any

import pydantic_core
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema


def _as_text(value: object) -> bytes:
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return pydantic_core.to_json(value)


def parsed(text: bytes) -> dict[str, Any]:
    """Return the object."""
    found: dict[str, Any] = pydantic_core.from_json(text)
    return found


KeptObject = Annotated[
    bytes,
    BeforeValidator(_as_text),
    PlainSerializer(parsed),
    WithJsonSchema({"type": "object", "additionalProperties": True}),
]
"""Type of a field that is an object where it is read and written, and its JSON text in between."""
