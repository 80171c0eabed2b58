"""Ask before something is removed for good."""

import sys
from typing import Annotated

import typer

from enginehouse.local.errors import LocalError

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def confirm_removal(name: str, question: str, *, yes: bool, as_json: bool) -> None:
    """Ask at a terminal whether to remove `name`, unless `yes` says so. Raise LocalError if nobody confirms."""
    if not yes and (as_json or not _has_terminal() or not _confirmed(question)):
        raise LocalError(f"{name} stays, because nobody confirmed that it is to be removed.", "--yes confirms it.")


def _has_terminal() -> bool:
    return sys.stdin.isatty()


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False
