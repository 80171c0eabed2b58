"""How a command reaches the API: by ENGINEHOUSE_URL and ENGINEHOUSE_API_KEY, else as the home's local tenant."""

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
"""Somebody is looking at the screen."""


# The server's advice speaks of HTTP calls; these are the same in commands.
_ADVICE = {
    "DEAD_LETTER_DOES_NOT_EXIST": "'enginehouse dead-letters' lists yours.",
    "ENGINE_DOES_NOT_EXIST": "'enginehouse engines' lists those you may use.",
    "INVALID_INPUT": "'enginehouse engines show ENGINE' shows what it wants.",
    "JOB_DOES_NOT_EXIST": "'enginehouse jobs' lists yours.",
    "JOB_IS_FINAL": "'enginehouse jobs retry ID' makes a new job with the same input.",
    "UNAUTHENTICATED": "Set ENGINEHOUSE_API_KEY; an operator makes keys with 'enginehouse tenant add NAME'.",
}


def clean(text: str) -> str:
    """Text of an engine or a server, without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def print_table(table: Table) -> None:
    """A table with nothing cut off: where the terminal is too narrow, its lines go on below."""
    wide = Console(highlight=False, width=10_000)
    wide.width = max(out.width, Measurement.get(wide, wide.options, table).maximum)
    wide.print(table, crop=False)


def print_error_with_advice(error: EnginehouseError) -> None:
    """An error as one line: what went wrong, and what to do about it."""
    detail = clean(str(error)).rstrip(". ")
    # A LocalError's text holds its ways out already.
    advice = "" if isinstance(error, LocalError) else _ADVICE.get(error.code, error.advice)
    err.print(Text(f"{detail}. {advice}".strip(), style="red"), soft_wrap=True)


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn an expected error of the block into its line and exit code 1."""
    try:
        yield
    except EnginehouseError as error:
        print_error_with_advice(error)
        raise typer.Exit(1) from None


@contextlib.contextmanager
def connected(home: Path) -> Iterator[Client]:
    """A client for the block; an expected error in it is shown, and exits with 1."""
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
        # The local key is for the local URL, and is shown to no other.
        key = local.get("api_key")
    try:
        return Client(url, key, retries=_PATIENCE)
    except (httpx2.InvalidURL, ValueError) as error:
        raise RequestError(f"{url!r} is not a URL: {error}") from None
