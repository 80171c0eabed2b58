"""Connect a command to the API: by ENGINEHOUSE_URL and ENGINEHOUSE_API_KEY, or as the home's local tenant."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from enginehouse.cli.console import err, out
from enginehouse.client import Client
from enginehouse.client.retries import RetryPlan
from enginehouse.contracts.errors import EnginehouseError, RequestError
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home

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
    # The text of a LocalError is a sentence and its remedy. Other errors may quote an engine's last words, line by line.
    is_local = isinstance(error, LocalError)
    detail = (clean if is_local else clean_lines)(str(error)).rstrip(". ")
    advice = "" if is_local else _ADVICE.get(error.code, error.advice)
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
def connected(home: Path) -> Iterator[Client]:
    """Give the block a client. Print an expected error of the block and exit with code 1."""
    with exit_on_error(), _client(home) as client:
        yield client


def _client(home: Path) -> Client:
    local = Home(home.expanduser().resolve()).read_local()
    url = os.environ.get("ENGINEHOUSE_URL") or local.get("url")
    if not url:
        raise LocalError(
            f"No Enginehouse is known in {home}.",
            "'enginehouse up' starts one here; or set ENGINEHOUSE_URL and ENGINEHOUSE_API_KEY to use another.",
        )
    key = os.environ.get("ENGINEHOUSE_API_KEY")
    if not key and url.rstrip("/") == str(local.get("url", "")).rstrip("/"):
        # The local key is for the local URL only. No other server may see it.
        key = local.get("api_key")
    try:
        return Client(url, key, retries=_PATIENCE)
    except (httpx2.InvalidURL, ValueError) as error:
        raise RequestError(f"{url!r} is not a URL: {error}") from None
