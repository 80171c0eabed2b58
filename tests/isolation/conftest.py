"""Prints at the end of `make isolation` what was attempted, what stopped it, and by which evidence."""

import sys
from collections.abc import Callable

import pytest
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Noted = Callable[[str, str, str], None]
_PROPERTY = "attempt"


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Noted:
    """Note an attempt, what stopped it, and the evidence. A line may be noted before what must hold is checked."""

    def noted(attempt: str, stopped_by: str, evidence: str) -> None:
        record_property(_PROPERTY, [attempt, stopped_by, evidence])

    return noted


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, whatever the outcome."""
    table = Table("attempt", "what stopped it", "evidence", box=box.SIMPLE, expand=True)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            lines = [value for name, value in report.user_properties if name == _PROPERTY]
            if outcome == "failed" and report.when == "call" and not lines:
                lines = [[report.nodeid.rpartition("::")[2], "", ""]]
            for attempt, stopped_by, evidence in lines if report.when == "call" else ():
                stopped = Text(stopped_by) if outcome == "passed" else Text("NOT STOPPED", "bold red")
                table.add_row(Text(attempt), stopped, Text(evidence))
    if table.row_count:
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160).print(table)
