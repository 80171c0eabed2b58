"""Checks inputs against the schemas on engines' cards, which come from tenants and may be hostile."""

import asyncio
from typing import Any

import jsonschema_rs
import pydantic_core

from enginehouse.checkers import Checkers, TooCostly
from enginehouse.contracts.engine import CARD_MAX_DEPTH
from enginehouse.contracts.errors import InvalidInput

_MAX_REPORTED = 3
_TEXT_CPU_SECONDS = 10.0
_SMALL_SCHEMA_NODES = 400
_EXPLAINED_MAX_BYTES = 1024 * 1024
"""To explain an error, the validator copies the whole value: 8 MB would hold up the event loop for a second."""
_BRANCHING = frozenset({"$ref", "$dynamicRef", "anyOf", "oneOf", "allOf", "not", "if", "dependentSchemas", "contains"})


def _weight(schema: Any, depth: int = 0) -> int:
    """Estimate how much work one value can cause: the number of nodes, with branching keywords counted heavily."""
    if depth > CARD_MAX_DEPTH:
        return 1_000_000
    if isinstance(schema, dict):
        heavy = sum(20 for key in schema if key in _BRANCHING)
        return 1 + heavy + sum(_weight(value, depth + 1) for value in schema.values())
    if isinstance(schema, list):
        return 1 + sum(_weight(value, depth + 1) for value in schema)
    return 1


class InputSchema:
    """Checks inputs against a compiled schema. Patterns run in linear time, and references are never fetched."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._validator = jsonschema_rs.validator_for(
            schema,
            validate_formats=False,
            pattern_options=jsonschema_rs.RegexOptions(),
            retriever=_refuse,
        )
        self._cheap = _weight(schema) <= _SMALL_SCHEMA_NODES

    async def check(self, value: Any, size: int) -> None:
        """Raise InvalidInput, naming the place and the reason, if `value` (`size` bytes as JSON) does not fit."""
        if self._cheap:
            problems = self._problems(value, size)
        else:
            problems = await asyncio.to_thread(self._problems, value, size)
        if problems:
            raise InvalidInput("; ".join(problems))

    async def check_text(self, input_json: bytes, checkers: Checkers, tenant: str) -> None:
        """Raise InvalidInput if a large input of `tenant`, as JSON text, does not fit; it is parsed in a checker."""
        try:
            problems = await checkers.run(tenant, _TEXT_CPU_SECONDS, _problems_of_text, self._schema, input_json)
        except TooCostly:
            raise InvalidInput(
                f"input: to check its {len(input_json)} bytes by the engine's schema took too much time or memory"
            ) from None
        if problems:
            raise InvalidInput("; ".join(problems))

    def _problems(self, value: Any, size: int) -> list[str]:
        if self._validator.is_valid(value):
            return []
        if size > _EXPLAINED_MAX_BYTES:
            return [f"input: it does not fit the engine's schema; with {size} bytes it is too large to say where"]
        problems: list[str] = []
        for error in self._validator.iter_errors(value):
            if len(problems) == _MAX_REPORTED:
                problems.append("…")
                break
            where = "input" + "".join(
                f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path
            )
            problems.append(f"{where}: {_short(error.message)}")
        return problems


def _problems_of_text(schema: dict[str, Any], input_json: bytes) -> list[str]:
    return InputSchema(schema)._problems(pydantic_core.from_json(input_json), len(input_json))


def _short(message: str) -> str:
    """Shorten a message that quotes a long value; the reason stands at the end and stays."""
    return message if len(message) <= 200 else f"{message[:60]} … {message[-120:]}"


def _refuse(uri: str) -> Any:
    raise ValueError(f"a card's schema may only refer to itself, not to {uri[:100]}")
