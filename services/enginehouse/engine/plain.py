"""Turn what an engine answers into values that JSON has, and say where a value is that cannot become one.

NumPy, pandas, PyTorch and their like are known by the methods that their values offer, so that none of them is needed here.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from typing import Any

import pydantic_core
from pydantic import BaseModel

from enginehouse.contracts.job import OUTPUT_MAX_DEPTH

_EXPORTS = ("tolist", "to_pylist", "to_dicts")
"""Methods that return a value as plain Python: of NumPy, pandas, PyTorch and JAX; of Arrow; of Polars."""
_PATH_MAX_CHARS = 120
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class BadResult(ValueError):
    """The engine's result does not have the declared type, or cannot be JSON. The same input would give it again."""


class _Unwritable(Exception):
    """A value that cannot be JSON. Each level that it passes adds its part of the path."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.path: list[str] = []


def plain(value: Any, name: str = "result") -> Any:
    """Return `value` with its foreign values replaced by such as JSON has.

    Raise BadResult with the path to a value that has no such form; the path begins with `name`.

    Models and dataclasses stay as they are, since pydantic writes them by their own rules; their fields are only checked.
    """
    try:
        return _Walk().plain(value)
    except _Unwritable as error:
        raise BadResult(f"{_shortened(name + ''.join(reversed(error.path)))}: {error}") from None


def is_finite(value: Any) -> bool:
    """Return whether no number anywhere in `value` is NaN or infinite."""
    open_values: list[Any] = [value]
    while open_values:
        item = open_values.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return False
        elif isinstance(item, dict):
            open_values.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            open_values.extend(item)
    return True


def is_too_deep(body: bytes) -> bool:
    """Return whether this JSON is nested deeper than a result may be."""
    if body.count(b"[") + body.count(b"{") <= OUTPUT_MAX_DEPTH:
        return False
    brackets = _STRINGS.sub(b"", body).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(OUTPUT_MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # Takes the innermost level away.
    return bool(brackets)


class _Walk:
    """One way through a result."""

    def __init__(self) -> None:
        self._above: set[int] = set()
        """Identities of the containers around the present value."""

    def plain(self, value: Any) -> Any:
        """Return the value as JSON has it."""
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, str | bytes | bytearray | memoryview):
            return _text(value)
        if isinstance(value, float):
            return _number(value)
        if _is_missing(value):
            return None
        if isinstance(value, Iterator):
            raise _Unwritable("an iterator, which may have been read already: answer a list")
        if isinstance(value, Mapping | Sequence | Set | ValuesView) or _has_fields(value):
            return self._container(value)
        exported = _export(value)
        return _known(value) if exported is value else self.plain(exported)

    def _container(self, value: Any) -> Any:
        # A result may be deep: few frames a level, so that Python's own limit is never met.
        if id(value) in self._above:
            raise _Unwritable("it contains itself, and JSON has no references: answer a copy without the circle")
        if len(self._above) >= OUTPUT_MAX_DEPTH:
            raise _Unwritable(f"nested deeper than {OUTPUT_MAX_DEPTH} levels: answer something flatter")
        pairs: Iterable[tuple[Any, Any]]
        if isinstance(value, Mapping):
            keys = [_key(key) for key in value]
            pairs = value.items()
        elif _has_fields(value):
            pairs = _fields(value)
        else:
            items = list(value)
            if _is_array(items):
                return items
            pairs = enumerate(items)
        self._above.add(id(value))
        made = []
        for key, item in pairs:
            try:
                made.append(self.plain(item))
            except _Unwritable as error:
                error.path.append(_step(key, value))
                raise
        self._above.discard(id(value))
        if isinstance(value, Mapping):
            return dict(zip(keys, made, strict=True))
        return value if _has_fields(value) else made


def _is_array(items: list[Any]) -> bool:
    """Return whether these are plain numbers of one kind. One look in C spares a step in Python for each of them."""
    kinds = set(map(type, items))
    return kinds <= {int, bool} or (kinds == {float} and all(map(math.isfinite, items)))


def _has_fields(value: Any) -> bool:
    return isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        yield from value
    else:
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))


def _known(value: Any) -> Any:
    """Return the value if pydantic can write it: a date, a UUID, a path, an enum."""
    try:
        pydantic_core.to_json(value)
    except (pydantic_core.PydanticSerializationError, ValueError, TypeError):
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise _Unwritable(
            f"a {kind[:80]}, which JSON does not have: answer a dict, a list, a text, a number, a dataclass or a pydantic model"
        ) from None
    return value


def _text(value: str | bytes | bytearray | memoryview) -> str:
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _Unwritable(
                    "a text with half a character (a lone surrogate): answer text.encode('utf-8', 'replace').decode()"
                ) from None
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise _Unwritable(
            "bytes that are no UTF-8 text: answer base64.b64encode(value).decode(), for example"
        ) from None


def _number(value: float) -> float:
    if not math.isfinite(value):
        raise _Unwritable(f"{float(value)}, a number that JSON does not have: answer None, or a number in its place")
    return value


def _is_missing(value: Any) -> bool:
    """Return whether it is one of pandas' two marks of a missing value."""
    return type(value).__name__ in ("NaTType", "NAType") and type(value).__module__.startswith("pandas")


def _export(value: Any) -> Any:
    """Return what a value of NumPy, pandas or their like is in plain Python, or the value itself."""
    if type(value).__module__.startswith("pandas") and hasattr(value, "where"):
        # In a table, NaN means that nothing is there. pandas writes null itself.
        value = value.astype(object).where(value.notna(), None)
        if hasattr(value, "columns"):
            if not value.columns.is_unique:
                raise _Unwritable("a table with two columns of the same name: rename one")
            return value.to_dict("records")
    if getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m") and hasattr(value, "astype"):
        # NumPy's moments in nanoseconds would become bare integers.
        value = value.astype(f"{value.dtype.kind}8[us]")
    for name in _EXPORTS:
        export = getattr(value, name, None)
        if callable(export) and not isinstance(value, type):
            exported = export()
            # NumPy has no plain form of its longest floats.
            return float(exported) if type(exported) is type(value) and isinstance(exported, numbers.Real) else exported
    return value


def _key(key: Any) -> Any:
    """Return the key of a dict as pydantic can write it."""
    written = _export(key)
    try:
        pydantic_core.to_json({written: None})
    except (pydantic_core.PydanticSerializationError, TypeError, ValueError):
        raise _Unwritable(f"its key {_shown(key)} is no text: answer a dict whose keys are texts or numbers") from None
    return written


def _step(key: Any, container: Any) -> str:
    """Return the part of the path from a container to the item under `key`."""
    named = isinstance(key, str) and key.isidentifier() and (_has_fields(container) or isinstance(container, Mapping))
    return f".{key[:40]}" if named else f"[{_shown(key)}]"


def _shown(key: Any) -> str:
    try:
        return ascii(key)[:40]
    except Exception:  # The author's own __repr__.
        return f"a {type(key).__name__}"


def _shortened(path: str) -> str:
    half = _PATH_MAX_CHARS // 2
    return path if len(path) <= _PATH_MAX_CHARS else f"{path[:half]}…{path[-half:]}"
