"""The two kinds of data that cross a boundary, by who writes them; and how their errors are told."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class StrictModel(BaseModel):
    """Written by people: an unknown field is refused, since it is most likely a misspelt one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WireModel(BaseModel):
    """Written by one part and read by another, perhaps of another version: unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def explain(error: ValidationError) -> str:
    """Say in a line which fields do not fit, and why; the first five."""
    return explain_problems(error.errors(include_url=False, include_input=False))


def explain_problems(problems: Sequence[Mapping[str, Any]]) -> str:
    """Say in a line what pydantic's list of problems says; the first five."""
    return "; ".join(f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}" for item in problems[:5])
