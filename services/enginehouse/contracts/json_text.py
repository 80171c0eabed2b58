"""Reads and writes JSON at the boundary, in one way for bodies, events, uploads and the client.

What cannot be JSON is refused by the path of the value and the cause, or by the place in the sender's own text.
"""

import codecs
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from enginehouse.contracts.base import explain
from enginehouse.contracts.errors import NotJson, RequestError, UnsupportedMediaType
from enginehouse.contracts.text import storable

MAX_DEPTH = 128
"""How deep an input may be nested: the events and records that carry it add levels."""
NUMBER_MAX = int(sys.float_info.max)
"""Largest number that may travel. Up to it, integers arrive exact; a larger one makes sidecars refuse its whole message."""
_PARSER_DEPTH = 201
"""Parsers refuse JSON that is nested this deep."""
_AROUND = _PARSER_DEPTH - MAX_DEPTH

_FORMS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_EXPONENT = re.compile(rb"[eE]\+?\d\d")
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 290
"""Numbers of fewer digits, and without an exponent, are in the range of a double."""
Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


def read_json(body: bytes, what: str, root: str = "") -> Any:
    """Parse JSON. Raise NotJson or UnsupportedMediaType, which say what of `what` is wrong.

    A byte order mark of UTF-8 is skipped. `root` is the name of the whole value, for the paths in messages.
    """
    try:
        return _parse(body)
    except ValueError as error:
        cause = error
    if body.startswith(codecs.BOM_UTF8):
        body = body[len(codecs.BOM_UTF8) :]
        try:
            return _parse(body)
        except ValueError as error:
            cause = error
    raise _refusal(body, cause, what, root)


def _parse(body: bytes) -> Any:
    return pydantic_core.from_json(body, allow_inf_nan=False)


def _refusal(body: bytes, error: ValueError, what: str, root: str) -> NotJson | UnsupportedMediaType:
    """Find out why `body` could not be parsed."""
    form = next((form for mark, form in _FORMS.items() if body.startswith(mark)), None)
    if form is None and (encoding := json.detect_encoding(body)) not in ("utf-8", "utf-8-sig"):
        form = encoding.upper()[:6]
    if form:
        return UnsupportedMediaType(f"{what} is {form}; send it as plain UTF-8")
    if not body.strip():
        return NotJson(f"{what} is empty; JSON is expected")
    try:
        # Python's own parser reads lone surrogates and NaN, and so shows where they are.
        fault = first_fault(json.loads(body.decode()), root)
    except UnicodeDecodeError as wrong:
        return NotJson(f"{what} is not JSON: its byte {wrong.start + 1}, 0x{body[wrong.start]:02X}, is not UTF-8")
    except (ValueError, RecursionError):
        fault = None
    return NotJson(fault or f"{what} is not JSON: {error}")


def wire_json(name: str, value: Any) -> bytes:
    """Write the field `name`, which was parsed from JSON, so that every part on its way can read it.

    Raise NotJson if it is nested too deep or has a number that JSON's readers cannot hold.
    """
    text = pydantic_core.to_json(value)
    _check_for_all(name, value, text, b"Infinity" in text or may_hold_long_number(text))
    return text


def check_upload(body: bytes, name: str) -> None:
    """Check the text of an upload as `upload_json` does, and return nothing: for a check in another process."""
    upload_json(body, name)


def upload_json(body: bytes, name: str) -> bytes:
    """Return the text of an upload that is the field `name`, without a byte order mark, after the checks of inline JSON."""
    value = read_json(body, f"The upload of {name}", name)
    body = body.removeprefix(codecs.BOM_UTF8)
    _check_for_all(name, value, body, may_overflow(body))
    return body


def may_overflow(text: bytes) -> bool:
    """Say whether JSON text may hold a number beyond the range of a double: few texts do, and need a closer look."""
    return may_hold_long_number(text) or _EXPONENT.search(text) is not None


def may_hold_long_number(text: bytes) -> bool:
    """Say whether JSON text has so many digits in a row that an integer of them may be beyond the range of a double."""
    # A regular expression would look at each of many digits as often as there are digits behind it.
    return len(text) >= len(_LONG_NUMBER) and _LONG_NUMBER in text.translate(_DIGITS_ALIKE)


def _check_for_all(name: str, value: Any, text: bytes, doubtful: bool) -> None:
    if doubtful and (fault := first_fault(value, name)):
        raise NotJson(fault)
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        try:
            _parse(b"[" * _AROUND + text + b"]" * _AROUND)
        except ValueError:
            raise NotJson(f"{name}: it is nested deeper than {MAX_DEPTH} levels") from None


def write_json(value: Any) -> bytes:
    """Write a value of Python as JSON. Raise NotJson, with the path of what cannot be JSON."""
    try:
        text = pydantic_core.to_json(value)
        if not (b"NaN" in text or b"Infinity" in text or may_hold_long_number(text)):
            return text
        error = None
    except ValueError as caught:
        error = caught
    if fault := first_fault(value) or (error and f"The value cannot be JSON: {error}"):
        raise NotJson(fault)
    return text


def first_fault(value: Any, root: str = "") -> str | None:
    """Say which part of a value JSON cannot hold, by its path and the cause; None if it can hold all of it."""
    # Iterators, and no list of what is left to see: a value can have millions of parts.
    open_values: list[tuple[Path, Iterator[tuple[str | int, Any]]]] = [((), iter([(root, value)]))]
    while open_values:
        above, parts = open_values[-1]
        if (found := next(parts, None)) is None:
            open_values.pop()
            continue
        name, item = found
        path = above if name == "" and not above else (*above, name)
        if len(path) > _PARSER_DEPTH:
            return f"{_written(path[:2])}: it is nested deeper than {MAX_DEPTH} levels"
        inside = _inside(item)
        cause = _name_fault(item) if inside is not None else _leaf_fault(item)
        if cause:
            return f"{_written(path)}: JSON cannot hold {cause}"
        if inside is not None:
            open_values.append((path, iter(inside)))
    return None


def _inside(item: Any) -> Iterable[tuple[str | int, Any]] | None:
    """Return the parts of a container by name; None if the item is none."""
    if isinstance(item, dict):
        return ((str(name), part) for name, part in item.items())
    if isinstance(item, BaseModel):
        return iter(item)
    if isinstance(item, list | tuple | set | frozenset):
        return enumerate(item)
    return None


def _name_fault(item: Any) -> str | None:
    lone = isinstance(item, dict) and next((n for n in item if isinstance(n, str) and _SURROGATE.search(n)), None)
    return f"a lone surrogate in the name {lone[:60]!a}" if lone else None


def _leaf_fault(item: Any) -> str | None:
    if isinstance(item, str):
        lone = _SURROGATE.search(item)
        return lone and f"a lone surrogate ({ascii(lone[0])[1:-1]})"
    if item is None:
        return None
    if isinstance(item, int):
        return None if abs(item) <= NUMBER_MAX else "an integer this large (numbers go up to 1.797e308)"
    if isinstance(item, float):
        return None if math.isfinite(item) else ("NaN" if math.isnan(item) else "Infinity, or a number this large")
    try:
        text = pydantic_core.to_json(item)
    except ValueError:
        return f"a value of the type {type(item).__name__}"
    try:
        _parse(text)
    except ValueError:
        return f"NaN or Infinity, which this {type(item).__name__} has"
    return None


def _written(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{storable(part[:60])}" for part in path)
    return text.removeprefix(".") or "The value"


def read_body(model: type[M], body: bytes) -> M:
    """Read a request's body as `model`; raise RequestError, naming the fields that do not fit."""
    return validated(model, read_json(body, "The body"))


def validated(model: type[M], value: Any, *, hint: bool = True) -> M:
    """Return a value as `model`; raise RequestError, naming the fields that do not fit. `hint`: and the nearest names."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise RequestError(explain(error, model if hint else None)) from None
