"""Connect a command to the API: by ENGINEHOUSE_URL and ENGINEHOUSE_API_KEY, or as the home's local tenant."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from enginehouse.cli.console import err, out
from enginehouse.client import Client
from enginehouse.client.retries import RetryPlan
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.local.errors import LocalError

_PATIENCE = RetryPlan(times=2, longest_retry_after_seconds=5)
"""Fewer retries than a program would use, because a person waits at the screen."""


# The server's advice names HTTP calls. These texts name the commands that do the same.
_ADVICE = {
    "DEAD_LETTER_DOES_NOT_EXIST": "'enginehouse dead-letters' lists yours.",
    "ENGINE_DOES_NOT_EXIST": "'enginehouse engines' lists those you may use.",
    "INVALID_INPUT": "'enginehouse engines show ENGINE' shows its input schema.",
    "JOB_DOES_NOT_EXIST": "'enginehouse jobs' lists yours.",
    "JOB_IS_FINAL": "'enginehouse jobs retry ID' makes a new job with the same input.",
    "UNAUTHENTICATED": "Set ENGINEHOUSE_API_KEY; an operator makes keys with 'enginehouse tenant add NAME'.",
}


def clean(text: str) -> str:
    """Return text of an engine or a server without characters that could control a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def clean_lines(text: str) -> str:
    """Return text of several lines as `clean` does, and keep the lines."""
    return "\n".join(clean(line) for line in text.splitlines())


def print_table(table: Table) -> None:
    """Print a table without cutting anything off. Lines that are too long for the terminal are wrapped."""
    wide = Console(highlight=False, width=10_000)
    wide.width = max(out.width, Measurement.get(wide, wide.options, table).maximum)
    wide.print(table, crop=False)


def print_error_with_advice(error: EnginehouseError) -> None:
    """Print an error: the problem, and what to do about it. One line, unless it quotes several."""
    detail = clean_lines(str(error)).rstrip(". ")
    # The text of a LocalError already contains its remedy.
    advice = "" if isinstance(error, LocalError) else _ADVICE.get(error.code, error.advice)
    # The last words of an engine stand on lines of their own.
    joint = "\n" if "\n" in detail else ". "
    err.print(Text(f"{detail}{joint}{advice}".strip(), style="red"), soft_wrap=True)


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an expected error of the block as one line, and exit with code 1."""
    try:
        yield
    except EnginehouseError as error:
        print_error_with_advice(error)
        raise typer.Exit(1) from None


@contextlib.contextmanager
def connected(home: Path | None) -> Iterator[Client]:
    """Give the block a client. Print an expected error of the block and exit with code 1."""
    with exit_on_error(), Client(home=home, retries=_PATIENCE) as client:
        yield client
