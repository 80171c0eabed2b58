"""Checks inputs against the schemas on engines' cards, which come from tenants and may be hostile."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonschema_rs
import pydantic_core

from enginehouse.checkers import Checkers, TooCostly
from enginehouse.contracts.errors import InvalidInput
from enginehouse.json_schema import compiled, measure, problems

_INLINE_MAX_COST = 2_000_000
"""Nodes of the schema times bytes of the input: up to this, a check takes 20 ms at most, and mostly microseconds."""
_CPU_SECONDS = 1.0
_CPU_SECONDS_FOR_EACH_BYTE = 0.25 / 1024 / 1024
_COMPILED_SCHEMAS = 64
"""Schemas that each process keeps compiled."""


class InputSchema:
    """A compiled schema. A check that cannot take long runs here, and any other one in a bounded process."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Raise UnusableSchema if the schema is out of bounds, is none, or refers to something outside it."""
        self._cost = measure(schema)
        self._validator = compiled(schema)
        self._text = pydantic_core.to_json(schema)

    async def check(self, value: Any, size: int, *, checkers: Checkers, caller: str) -> None:
        """Raise InvalidInput, naming the place and the reason, if `value` (`size` bytes as JSON) does not fit."""
        if self._cost.bounded and self._cost.nodes * size <= _INLINE_MAX_COST:
            _refuse_if(problems(self._validator, value, size))
        else:
            await self.check_text(pydantic_core.to_json(value), checkers=checkers, caller=caller)

    async def check_text(self, text: bytes, *, checkers: Checkers, caller: str) -> None:
        """Raise InvalidInput if the input with this JSON text does not fit, or if checking it takes too long."""
        seconds = _CPU_SECONDS + len(text) * _CPU_SECONDS_FOR_EACH_BYTE
        try:
            found = await checkers.run(caller, seconds, _problems_of, self._text, text)
        except TooCostly:
            found = ["input: checking it takes too long; the engine's schema is too complex for an input like this one"]
        _refuse_if(found)


def _refuse_if(found: list[str]) -> None:
    if found:
        raise InvalidInput("; ".join(found))


def _problems_of(schema: bytes, text: bytes) -> list[str]:
    """Check in a process of its own."""
    return problems(_compiled(schema), pydantic_core.from_json(text), len(text))


@lru_cache(_COMPILED_SCHEMAS)
def _compiled(schema: bytes) -> jsonschema_rs.Validator:
    return compiled(pydantic_core.from_json(schema))
