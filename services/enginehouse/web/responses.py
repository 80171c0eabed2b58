"""Writes JSON answers."""

from typing import Any

import pydantic_core
from fastapi import Response


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with `content` as JSON."""
    return Response(pydantic_core.to_json(content), status, headers, "application/json")
