"""Show the demo's jobs as rows that are printed one after the other and still form one table."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from enginehouse.cli.connection import clean
from enginehouse.cli.demonstration.examples import Example, How

_ENGINE_WIDTH, _TIME_WIDTH, _WIDEST = 17, 8, 120
_LONGEST = 200

_HOW: dict[How, str] = {
    "inline": "{shown}",
    "reference": "{shown}, by reference",
    "event over HTTP": "event over HTTP: {shown}",
    "event over topic": "event on requests.{tenant}, answered on finished.{tenant}: {shown}",
}


class Board:
    """The table of jobs. Rows are printed as they come, so the widths are fixed before the first."""

    def __init__(self, print_above: Callable[[RenderableType], None], width: int) -> None:
        self._print = print_above
        free = min(width, _WIDEST) - _ENGINE_WIDTH - 2 * _TIME_WIDTH - 4
        self._widths = (_ENGINE_WIDTH, free - free * 9 // 20, free * 9 // 20, _TIME_WIDTH, _TIME_WIDTH)
        self._is_empty = True

    def add(self, example: Example, job: dict[str, Any]) -> None:
        """Print the row of a job."""
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_header=self._is_empty)
        for name, width in zip(("engine", "input", "result", "queue time", "predict time"), self._widths, strict=True):
            table.add_column(name, width=width, justify="right" if name.endswith("time") else "left")
        metrics = job.get("metrics") or {}
        table.add_row(
            Text(example.engine),
            Text(describe_input(example)),
            Text(describe_result(example.engine, job)),
            describe_time(metrics.get("queue_time")),
            describe_time(metrics.get("predict_time")),
        )
        if self._is_empty:
            self._print("")
        self._is_empty = False
        self._print(table)


def describe_input(example: Example) -> str:
    """Return a text for the input, with the way it travelled unless that was inside the request."""
    return _HOW[example.how].format(tenant=example.tenant, shown=example.shown)


def describe_result(engine: str, job: dict[str, Any]) -> str:
    """Return the result in a few words. For a job that did not succeed: the reason."""
    if job.get("status") != "succeeded":
        error = job.get("error") or {}
        return clean(f"{job.get('status')}: {error.get('code')} {error.get('message')}")
    return _RESULTS[engine](job["output"])


def describe_time(seconds: float | None) -> str:
    """Return a duration with a sensible number of digits."""
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


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
