"""Show the demo's jobs as rows that are printed one after the other and still form one table."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

from rich.text import Text

from enginehouse.cli.console import ellipsis, wrap
from enginehouse.cli.demonstration.examples import Example, How
from enginehouse.cli.tables import Column, Fit, field_lines, fit
from enginehouse.cli.units import duration
from enginehouse.contracts.text import clean, clean_lines

_WIDEST = 120
_LONGEST = 200

_COLUMNS = (
    Column("engine"),
    Column("input", fit=Fit.WORDS),
    Column("result", fit=Fit.WORDS),
    Column("queue time", right=True),
    Column("predict time", right=True),
)
_WIDE = ("globex--embedding", "x" * _WIDEST, "x" * _WIDEST, "100.0 ms", "100.0 ms")
"""A row that is as wide as rows get. Rows are printed as they come, so the widths are fixed before the first."""

_HOW: dict[How, str] = {
    "inline": "{shown}",
    "reference": "{shown}, by reference",
    "event over HTTP": "event over HTTP: {shown}",
    "event over topic": "event on requests.{tenant}, answered on finished.{tenant}: {shown}",
}


class Board:
    """The table of jobs, of records in a narrow terminal. Also in a pipe it is for people: a program reads --json."""

    def __init__(self, print_above: Callable[[Text], None], width: int) -> None:
        self._print = print_above
        self._width = width
        self._layout = fit(_COLUMNS, [_WIDE], min(width, _WIDEST), ellipsis())
        self._is_empty = True

    def add(self, example: Example, job: dict[str, Any]) -> None:
        """Print the row of a job."""
        metrics = job.get("metrics") or {}
        row = (
            example.engine,
            describe_input(example),
            describe_result(example.engine, job),
            duration(metrics.get("queue_time")),
            duration(metrics.get("predict_time")),
        )
        for line in self._lines(row):
            self._print(line)
        self._is_empty = False

    def _lines(self, row: tuple[str, ...]) -> Iterator[Text]:
        if self._layout is None:
            yield Text()
            yield from field_lines({column.name: cell for column, cell in zip(_COLUMNS, row, strict=True)}, self._width)
            return
        if self._is_empty:
            yield Text()
            yield from self._layout.head(ellipsis())
        yield from self._layout.lines(row, ellipsis())


def remark_lines(title: str, text: str, width: int, colour: str = "") -> Iterator[Text]:
    """Return the lines of a remark below the table: a title, and an indented text."""
    yield Text()
    yield from wrap(Text(title, f"bold {colour}"), width)
    for line in wrap(Text(clean_lines(text)), width - 2):
        yield Text.assemble("  ", line)


def describe_input(example: Example) -> str:
    """Return a text for the input, with the way it travelled unless that was inside the request."""
    return _HOW[example.how].format(tenant=example.tenant, shown=example.shown)


def describe_result(engine: str, job: dict[str, Any]) -> str:
    """Return the result in a few words. For a job that did not succeed: the reason."""
    if job.get("status") != "succeeded":
        error = job.get("error") or {}
        return clean(f"{job.get('status')}: {error.get('code')} {error.get('message')}")
    return _RESULTS[engine](job["output"])


def _sentiment(output: Any) -> str:
    return f"{output['label']}, {output['score']:+.2f}"


def _page(output: Any) -> str:
    return " / ".join(clean(line) for line in output["text"].splitlines())[:_LONGEST]


def _likeness(output: Any) -> str:
    """Return the cosine of each pair. The vectors have length 1."""
    pairs = combinations(enumerate(output["vectors"], 1), 2)
    return "\n".join(f"cosine {one}·{other}  {_cosine(a, b):+.2f}" for (one, a), (other, b) in pairs)


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


_RESULTS: dict[str, Callable[[Any], str]] = {
    "shared--standard": _sentiment,
    "acme--ocr": _page,
    "globex--embedding": _likeness,
}
