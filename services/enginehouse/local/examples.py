"""Send a version its own examples, before it gets the jobs of the version that serves."""

import asyncio
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2

from enginehouse.contracts.engine import EXAMPLE_FILE
from enginehouse.contracts.problem import problem_text

_MOST_EXAMPLES = 20
_RESULT = b'"result"'
_SHOWN_BYTES = 300


def example_files(folder: Path) -> dict[str, Path]:
    """Return the files with an author's examples of inputs, by name: `example.json` and those in `examples/`."""
    found = [folder / EXAMPLE_FILE, *sorted((folder / "examples").glob("*.json"))]
    return {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}


def _own_examples(source: Path) -> Mapping[str, Any]:
    """Return the inputs that an engine's folder has as examples, by file. What is not JSON is the example itself as text."""
    found: dict[str, Any] = {}
    for name, path in islice(example_files(source).items(), _MOST_EXAMPLES):
        text = path.read_text(errors="replace")
        try:
            found[name] = json.loads(text, parse_constant=str)
        except (ValueError, RecursionError):
            found[name] = text
    return found


async def wrong_example(url: str, source: Path, timeout_seconds: float) -> str | None:
    """Send a replica's /predict the examples of its folder. Return which is answered wrongly, and how; None if none is."""
    for name, data in _own_examples(source).items():
        if wrong := await _wrong_answer(url, data, timeout_seconds):
            return f"{name}: {wrong}"
    return None


async def _wrong_answer(url: str, data: Any, timeout_seconds: float) -> str | None:
    """Send an input to a replica's /predict. Return what is wrong with the answer; None if it has a result."""
    begun, end, has_result = b"", b"", False
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            httpx2.AsyncClient(timeout=None, trust_env=False) as http,
            http.stream("POST", url, json={"data": data}) as answer,
        ):
            async for part in answer.aiter_bytes():
                # The whole answer must arrive, and it is not kept.
                begun, has_result = (begun + part)[:_SHOWN_BYTES], has_result or _RESULT in end + part
                end = part[-len(_RESULT) :]
    except TimeoutError:
        return f"no answer within {timeout_seconds:g} s"
    except httpx2.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    if answer.status_code == 200 and has_result:
        return None
    return f"HTTP {answer.status_code}: {problem_text(begun.decode(errors='replace'))}"
