"""Reads the inputs that an engine's folder has as examples, and says which of them the engine does not answer."""

import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from enginehouse.contracts.engine import EXAMPLE_FILE

_MOST_EXAMPLES = 20


def example_files(folder: Path) -> dict[str, Path]:
    """Return the files with an author's examples of inputs, by name: `example.json` and those in `examples/`."""
    found = [folder / EXAMPLE_FILE, *sorted((folder / "examples").glob("*.json"))]
    return {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}


async def wrong_example(folder: Path, ask: Callable[[Any], Awaitable[str | None]]) -> str | None:
    """Give `ask` each example of the folder until it says what is wrong with an answer.

    Return which example that is, and what is wrong; None if all are answered.
    """
    for name, data in _own_examples(folder).items():
        if wrong := await ask(data):
            return f"{name}: {wrong}"
    return None


def _own_examples(folder: Path) -> Mapping[str, Any]:
    """Return the inputs that an engine's folder has as examples, by file. What is not JSON is the example itself as text."""
    found: dict[str, Any] = {}
    for name, path in islice(example_files(folder).items(), _MOST_EXAMPLES):
        text = path.read_text(errors="replace")
        try:
            found[name] = json.loads(text, parse_constant=str)
        except (ValueError, RecursionError):
            found[name] = text
    return found
