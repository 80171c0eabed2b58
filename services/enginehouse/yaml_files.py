"""Read YAML that people write: values as they stand there, and every mistake at once, each with its path."""

import difflib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from enginehouse.contracts.base import StrictModel, as_written, known_names, model_at, model_in
from enginehouse.contracts.errors import RequestError

M = TypeVar("M", bound=BaseModel)

_MAX_BYTES = 1024 * 1024
_MAX_ALIASES, _MAX_MERGED = 1_000, 1_000
"""Most aliases of a file, and most keys of a mapping that merges others: a few lines of `<<` could fill the memory."""
_MAX_MISTAKES = 100
"""Most mistakes of a file that are explained."""
_RESOLVED = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_SENTENCES = {
    "missing": "is missing",
    "int_parsing": "must be a whole number, not {input}",
    "int_type": "must be a whole number, not {input}",
    "int_from_float": "must be a whole number, not {input}",
    "float_parsing": "must be a number, not {input}",
    "float_type": "must be a number, not {input}",
    "bool_parsing": "must be true or false, not {input}",
    "bool_type": "must be true or false, not {input}",
    "string_type": "must be a text, not {input}",
    "list_type": "must be a list, not {input}",
    "dict_type": "must hold keys and values, not {input}",
    "model_type": "must hold keys and values, not {input}",
    "greater_than": "must be more than {gt}, not {input}",
    "greater_than_equal": "must be {ge} or more, not {input}",
    "less_than_equal": "must be {le} or less, not {input}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "string_pattern_mismatch": "must match {pattern}, and {input} does not",
    "too_short": "must not be empty",
    "literal_error": "must be {expected}, not {input}",
    "value_error": "{error}",
}
"""What pydantic's kinds of errors mean to the author of a file."""


class InvalidFile(RequestError):
    """A file cannot be used."""

    code = "INVALID_FILE"
    advice = "Correct the file as described."


class _AsWritten(yaml.SafeLoader):
    """Keeps `1.10`, `4` and `yes` as text. The model turns texts into numbers where it wants numbers."""

    _aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse a file of countless aliases."""
        self._aliases += self.check_event(yaml.AliasEvent)
        if self._aliases > _MAX_ALIASES:
            raise yaml.composer.ComposerError(None, None, f"it has more than {_MAX_ALIASES:,} aliases")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse a mapping that grows too large by what it merges."""
        before = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > max(before, _MAX_MERGED):
            raise yaml.constructor.ConstructorError(
                None, None, f"by << it has more than {_MAX_MERGED:,} keys", node.start_mark
            )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice, because one of the two would be ignored."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        if twice := next((key for key, times in keys.items() if times > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_AsWritten.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, pattern) for tag, pattern in resolvers if tag in _RESOLVED])
}


def read_yaml(kind: type[M], path: Path) -> M:
    """Read a file as `kind`. Raise InvalidFile with its mistakes, at most 100, each with its field and its line."""
    text = b""
    try:
        text = _content(path)
        return kind.model_validate(yaml.load(text, _AsWritten))  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InvalidFile(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise InvalidFile(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InvalidFile(f"{path} is nested too deeply") from None
    except ValidationError as error:
        root = yaml.compose(text, _AsWritten)
        found = error.errors(include_url=False)
        mistakes = [_explain(kind, mistake) + _line(root, mistake["loc"]) for mistake in found[:_MAX_MISTAKES]]
    if len(found) == 1:
        raise InvalidFile(f"{path}: {mistakes[0]}")
    if len(found) > _MAX_MISTAKES:
        mistakes.append(f"and {len(found) - _MAX_MISTAKES:,} more")
    raise InvalidFile("\n  ".join([f"{path} has {len(found)} mistakes:", *mistakes]))


def _content(path: Path) -> bytes:
    # Not blocking, so that a pipe is refused instead of waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidFile(f"{path} is not a file")
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise InvalidFile(f"{path} has more than the {_MAX_BYTES:,} bytes that are read")
    return content


def _explain(kind: type[BaseModel], mistake: Mapping[str, Any]) -> str:
    if mistake["type"] == "extra_forbidden":
        return f"{_path(mistake['loc'])}: {_unknown_key(kind, mistake['loc'])}"
    place = as_written(kind, mistake["loc"])
    sentence = _SENTENCES.get(mistake["type"], mistake["msg"])
    bounds = {name: _plain(value) for name, value in mistake.get("ctx", {}).items()}
    values = {**bounds, "input": _shown(mistake["input"])}
    return f"{_path(place) or 'the file'}: {sentence.format(**values)}"


def _line(root: yaml.Node | None, place: Sequence[str | int]) -> str:
    """Return ` (line 3)` for the innermost part of `place` that stands in the file; nothing if none does."""
    found, node = None, root
    for part in place:
        if isinstance(node, yaml.MappingNode):
            entries = {key.value: (key, value) for key, value in node.value}
            found, node = entries.get(part, (found, None))
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = node = node.value[part]
    return f" (line {found.start_mark.line + 1})" if found else ""


def _unknown_key(kind: type[BaseModel], place: tuple[str | int, ...]) -> str:
    *parents, key = place
    model = model_at(kind, parents)
    if issubclass(model, StrictModel) and (new := model.renamed.get(str(key))):
        return f"is called {new!r} now: rename it"
    near = difflib.get_close_matches(str(key), known_names(model), 1)
    places = [_path((*parents, near[0]))] if near else [path for path in _paths(kind) if path.endswith(f".{key}")]
    if places:
        return f"is not a known key; did you mean {places[0]}?"
    return f"is not a known key; the known ones are {', '.join(known_names(model))}"


def _paths(kind: type[BaseModel], parent: str = "") -> Iterator[str]:
    for name, field in zip(known_names(kind), kind.model_fields.values(), strict=True):
        yield parent + name
        if model := model_in(field.annotation):
            yield from _paths(model, f"{parent}{name}.")


def _path(place: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, list):
        return "a list"
    # Long text is not quoted: the file may be another one than its author thinks.
    return "nothing" if value is None else "text" if len(str(value)) > 60 else repr(value)
