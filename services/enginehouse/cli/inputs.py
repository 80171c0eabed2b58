"""Read a job's input from the command line: JSON, a file with JSON, standard input, or files as base64 fields."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import typer


def read_input(text: str | None, files: list[str], *, option: str = "--input") -> Any:
    """Return the input given by `option` and `--input-file FIELD=PATH`.

    Raise BadParameter with the reason if it is wrong.
    """
    value = None if text is None else _parse(_text(text), option)
    for file in files:
        value = _with_file(value, file)
    return value


def _text(text: str) -> str:
    try:
        if text in ("-", "@-"):
            return sys.stdin.read()
        return Path(text[1:]).read_text() if text.startswith("@") else text
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{text[1:]} is not text; --input-file FIELD={text[1:]} sends it as base64") from None


def _parse(text: str, option: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        advice = f"""JSON text needs its own quotes: {option} '{{"text": "Hello"}}'"""
        raise typer.BadParameter(f"{option} is not JSON ({error}). {advice}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _with_file(value: Any, option: str) -> dict[str, Any]:
    field, separator, path = option.partition("=")
    if not (field and separator and path):
        raise typer.BadParameter(f"--input-file {option!r}: give FIELD=PATH, as in image=page.png")
    if value is not None and not isinstance(value, dict):
        raise typer.BadParameter("--input-file adds a field, so --input must be a JSON object")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from None
    return {**(value or {}), field: base64.b64encode(content).decode()}
