"""Puts the simulation's tables into docs/scale.md, between two comments each."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.benchmarks.results import Results
from tests.benchmarks.simulation.tables import Tables

DOCS = Path(__file__).parents[3] / "docs"
PARTS: Mapping[str, Callable[[Tables], str]] = {
    "checked": Tables.checked,
    "cells": Tables.cells,
    "bursts": Tables.bursts,
    "capacity": Tables.capacity,
}
_END = "<!-- /simulated -->"


def recorded() -> Results:
    """Return what `make bench ARGS=--record` has recorded."""
    return Results(json.loads((DOCS / "benchmarks.json").read_text()))


def document(tables: Tables, text: str) -> str:
    """Return the text of docs/scale.md with its tables made anew. Raise ValueError if one has no place in it."""
    for part, make in PARTS.items():
        begin = f"<!-- simulated: {part}. Run 'make capacity'; do not edit this part. -->"
        before, found, rest = text.partition(begin)
        _, end, after = rest.partition(_END)
        if not found or not end:
            raise ValueError(f"docs/scale.md needs a line {begin!r}, and {_END!r} after it")
        text = f"{before}{begin}\n\n{make(tables)}\n\n{end}{after}"
    return text
