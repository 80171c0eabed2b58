"""Reads strangers' JSON Schemas: bounds them before use, compiles them, and explains what does not fit. Fetches nothing."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import jsonschema_rs

from enginehouse.contracts.engine import CARD_MAX_DEPTH

EXPANDED_MAX_NODES = 10_000
"""Most nodes of a schema in which each `$ref` is replaced by what it names. Validation costs time for each of them."""
_MAX_DEPTH = 4 * CARD_MAX_DEPTH
"""How deep a schema may be nested in which each `$ref` is replaced by what it names."""
_PATTERN_MAX_CHARACTERS = 1_000
_PATTERN_MAX_BYTES = 1024 * 1024
"""Most memory of a compiled pattern. `(a{0,200}){0,200}` would take more, and seconds for a short text."""
_DIALECTS = frozenset(
    {
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema",
        "http://json-schema.org/draft-04/schema",
    }
)
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_OF_NAMES = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords whose value gives a schema for each name."""
_DEFINITIONS = frozenset({"$defs", "definitions"})
"""Keywords whose schemas cost time only where a `$ref` names them."""
_COMPARED = frozenset({"enum", "const"})
"""Keywords whose value is data with which a value is compared."""
_REMARKS = frozenset({"default", "example", "examples"})
"""Keywords whose value is data that nothing is compared with."""
_COSTLY = frozenset(
    {"pattern", "patternProperties", "uniqueItems", "unevaluatedItems", "unevaluatedProperties", "multipleOf"}
)
"""Keywords that can take much longer than a look at the value. `multipleOf` divides large numbers exactly."""
_MAX_REPORTED = 3
_EXPLAINED_MAX_BYTES = 1024 * 1024
"""To explain an error, the validator copies the whole value."""


class UnusableSchema(ValueError):
    """A schema that is not used. The message says why, and begins with `it` or `its`."""


class Cost(NamedTuple):
    """What checking one value by a schema can cost."""

    nodes: int
    """Nodes of the schema, those behind each reference included. Each may be looked at for each part of the value."""
    bounded: bool
    """Whether nothing in it can take longer than that: no pattern, no recursion."""


def measure(schema: Mapping[str, Any]) -> Cost:
    """Return what checking by `schema` can cost; raise UnusableSchema if it is out of bounds or refers elsewhere."""
    return _Measure(schema).whole()


def compiled(schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
    """Compile a schema that `measure` has passed; raise UnusableSchema if it is no valid schema."""
    try:
        return jsonschema_rs.validator_for(
            dict(schema),
            validate_formats=False,
            # Linear in the text, whatever the pattern.
            pattern_options=jsonschema_rs.RegexOptions(
                size_limit=_PATTERN_MAX_BYTES, dfa_size_limit=_PATTERN_MAX_BYTES
            ),
            retriever=_refuse,
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise UnusableSchema(f"it is not a valid JSON Schema: {_short(str(error).partition(chr(10))[0])}") from None


def problems(validator: jsonschema_rs.Validator, value: Any, size: int) -> list[str]:
    """Say what of `value` (`size` bytes as JSON) does not fit, each with its place; an empty list if all of it fits."""
    if validator.is_valid(value):
        return []
    if size > _EXPLAINED_MAX_BYTES:
        return [f"input: it does not fit the engine's schema; with {size} bytes it is too large to say where"]
    found: list[str] = []
    for error in validator.iter_errors(value):
        if len(found) == _MAX_REPORTED:
            found.append("…")
            break
        where = "input" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        found.append(f"{where}: {_short(error.message)}")
    return found


class _Measure:
    """Walks one schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._behind: dict[str, int] = {}
        """Nodes behind each reference that was followed to its end."""
        self._following = ["#"]
        self._bounded = True

    def whole(self) -> Cost:
        """Measure it all."""
        return Cost(self._nodes(self._schema, 0), self._bounded)

    def _nodes(self, node: Any, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise UnusableSchema(f"it is nested more than {_MAX_DEPTH} deep once its references are followed")
        if isinstance(node, list):
            return sum(self._nodes(part, depth + 1) or 1 for part in node)
        if not isinstance(node, dict):
            return 0
        nodes = 1
        for keyword, value in node.items():
            nodes += self._keyword(keyword, value, depth)
            if nodes > EXPANDED_MAX_NODES:
                raise UnusableSchema(f"it has more than {EXPANDED_MAX_NODES} parts once its references are followed")
        return nodes

    def _keyword(self, keyword: str, value: Any, depth: int) -> int:
        if keyword in _COSTLY:
            self._bounded = False
        if keyword in _REFERENCES:
            return self._reference(keyword, value, depth)
        if keyword in _OF_NAMES and isinstance(value, dict):
            for pattern in value if keyword == "patternProperties" else ():
                _check_pattern(pattern)
            inside = self._nodes(list(value.values()), depth + 1)
            return 0 if keyword in _DEFINITIONS else inside
        if keyword in _REMARKS:
            return 0
        if keyword in _COMPARED:
            # Texts are looked up; other values are compared one by one.
            return 0 if _is_all_text(value) else _parts(value)
        _check_keyword(keyword, value, depth)
        return self._nodes(value, depth + 1)

    def _reference(self, keyword: str, reference: Any, depth: int) -> int:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise UnusableSchema(
                f"its {keyword} {str(reference)[:100]!r} is not a place inside itself, such as #/$defs/x"
            )
        if reference in self._following:
            self._bounded = False
            return 0
        if reference not in self._behind:
            self._following.append(reference)
            self._behind[reference] = self._nodes(self._target(reference), depth + 1)
            self._following.pop()
        return self._behind[reference]

    def _target(self, reference: str) -> Any:
        node: Any = self._schema
        for part in reference.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif (
                isinstance(node, list) and name.isascii() and name.isdigit() and len(name) < 6 and int(name) < len(node)
            ):
                node = node[int(name)]
            else:
                raise UnusableSchema(f"its $ref {reference[:100]!r} leads nowhere")
        return node


def _is_all_text(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _parts(value: Any) -> int:
    """Return of how many values data consists."""
    parts, inside = 0, [value]
    while inside:
        node = inside.pop()
        parts += 1
        if isinstance(node, dict | list):
            inside.extend(node.values() if isinstance(node, dict) else node)
    return parts


def _check_keyword(keyword: str, value: Any, depth: int) -> None:
    if keyword == "$schema" and (not isinstance(value, str) or value.rstrip("#") not in _DIALECTS):
        raise UnusableSchema(f"its $schema {str(value)[:100]!r} is not a dialect that is known here, such as 2020-12")
    if keyword == "$id" and depth:
        raise UnusableSchema("it has an $id inside, which would change what its references mean")
    if keyword == "pattern":
        _check_pattern(value)


def _check_pattern(pattern: Any) -> None:
    if isinstance(pattern, str) and len(pattern) > _PATTERN_MAX_CHARACTERS:
        raise UnusableSchema(f"its pattern {pattern[:60]!r}… has more than {_PATTERN_MAX_CHARACTERS} characters")


def _short(message: str) -> str:
    """Shorten a message that quotes a long value; the reason stands at the end and stays."""
    return message if len(message) <= 200 else f"{message[:60]} … {message[-120:]}"


def _refuse(uri: str) -> Any:
    raise ValueError(f"a schema may only refer to itself, not to {uri[:100]}")
