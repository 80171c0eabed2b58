"""Writes what a run has found into the documents: docs/benchmarks.md with its picture and numbers, and the root README."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.plot import bars
from tests.benchmarks.report import NAMES, Rows
from tests.benchmarks.results import BATCHES, MANY, ONE, Results

ROOT = Path(__file__).parents[2]
_BEGIN, _END = "<!-- bench -->", "<!-- /bench -->"


def record(results: Results, tables: Sequence[Rows], conditions: str) -> None:
    """Write the page, the picture, every number, and the lines of the README."""
    docs = ROOT / "docs"
    (docs / "benchmarks.svg").write_text(picture(results))
    (docs / "benchmarks.json").write_text(json.dumps(results.numbers, indent=1) + "\n")
    head = "# What `make bench` found\n\nWritten by `make bench ARGS=--record`. [How it measures](../tests/benchmarks/README.md)"
    body = "\n".join(table.markdown() for table in tables)
    (docs / "benchmarks.md").write_text(f"{head}\n\n{conditions}\n\n![plot](benchmarks.svg)\n\n{body}")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(_BEGIN)
    readme.write_text(
        f"{before}{_BEGIN}\n![plot](docs/benchmarks.svg)\n\n{summary(results)}{_END}{rest.partition(_END)[2]}"
    )


def picture(results: Results) -> str:
    """Draw what matters most, all systems beside each other."""
    groups = (
        ("jobs/s over HTTP, 64 callers (more is better)", MANY, "per_second"),
        ("jobs/s, 10,000 in batches of 1,000 (more is better)", BATCHES, "per_second"),
        ("one job at a time, p50 in ms (less is better)", ONE, "p50_ms"),
    )
    found = []
    for title, load, measure in groups:
        numbers = [(name, results.median(load, system, measure)) for system, name in NAMES.items()]
        found.append((title, [(name, number) for name, number in numbers if number is not None]))
    return bars(found)


def summary(results: Results) -> str:
    """Return the three lines of the README."""
    many = [f"{results.ratio(MANY, 'enginehouse', peer, 'per_second'):.1f} times" for peer in _SUMMED_UP]
    rate, batches = (results.median(load, "enginehouse", "per_second") for load in (MANY, BATCHES))
    one, celery = (results.median(ONE, system, "p50_ms") for system in ("enginehouse", "celery"))
    in_batches = results.ratio(BATCHES, "enginehouse", "celery", "per_second")
    return (
        f"- 64 callers who wait: {rate:,.0f} jobs/s; {many[0]} Celery's, {many[1]} those of Celery where it loses no task, "
        f"{many[2]} Procrastinate's.\n"
        f"- One job alone: {one:.1f} ms; Celery: {celery:.1f} ms.\n"
        f"- 10,000 jobs in batches of 1,000: {batches:,.0f} jobs/s, {in_batches:.1f} times Celery's.\n"
    )


_SUMMED_UP = ("celery", "celery durable", "procrastinate")
