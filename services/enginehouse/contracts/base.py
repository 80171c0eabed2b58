"""Base classes of data that crosses a boundary, by who writes it; and how its errors are explained."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError


class StrictModel(BaseModel):
    """Data written by people. Refuses an unknown field, which is most likely a misspelt one."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of fields, each with its present name. Readers of files tell their authors."""


class WireModel(BaseModel):
    """Data written by one part and read by another, perhaps of another version. Ignores unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def explain(error: ValidationError) -> str:
    """Say in a line which fields do not fit, and why; the first five."""
    return explain_problems(error.errors(include_url=False, include_input=False))


def explain_problems(problems: Sequence[Mapping[str, Any]]) -> str:
    """Say in a line what pydantic's list of problems says; the first five."""
    return "; ".join(f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}" for item in problems[:5])
