"""`enginehouse dead-letters`: list jobs and events that were given up, submit them again, or delete them."""

from typing import Annotated

import typer
from rich.text import Text

from enginehouse.cli.commands import Lists
from enginehouse.cli.connection import connected
from enginehouse.cli.console import print_exactly, print_json, say
from enginehouse.cli.homes import HomeOption
from enginehouse.cli.options import JsonOption, LetterArgument
from enginehouse.cli.tables import Cell, Column, Fit, print_fields, print_table
from enginehouse.cli.units import age
from enginehouse.client import DeadLetterInfo

EXAMPLES = """Examples:

enginehouse dead-letters

enginehouse dead-letters show 01890a5d-ac96-7b2a-8c4e-0123456789ab

enginehouse dead-letters redrive 01890a5d-ac96-7b2a-8c4e-0123456789ab

enginehouse dead-letters --unparsable --json"""

dead_letters = typer.Typer(cls=Lists, epilog=EXAMPLES)

_COLUMNS = (
    Column("id"),
    Column("engine", fit=Fit.MIDDLE),
    Column("reason"),
    Column("attempts", worth=2),
    Column("age", worth=4, right=True),
    Column("redriven as", worth=1),
    Column("last error", worth=3, fit=Fit.WORDS),
)
UnparsableOption = Annotated[
    bool,
    typer.Option(
        "--unparsable", help="Only events that could not be parsed and so belong to no tenant. For operators."
    ),
]
LimitOption = Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Most dead letters to list.")]


@dead_letters.callback()
def callback() -> None:
    """List jobs and events that were given up, or show, redrive or discard one. Without a command: list."""


@dead_letters.command("list")
def list_dead_letters(
    unparsable: UnparsableOption = False,
    limit: LimitOption = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest first, with the reason of each."""
    with connected(home) as client:
        found = list(client.dead_letters(unparsable=unparsable, limit=limit))
    if as_json:
        print_json([letter.model_dump(mode="json", exclude={"event"}) for letter in found])
        return
    rows = [
        (
            letter.id,
            letter.engine or "-",
            Text(letter.reason, "red"),
            str(letter.attempts),
            age(letter.created_at),
            letter.redriven_as or "",
            letter.error.message if letter.error else "",
        )
        for letter in found
    ]
    print_table(_COLUMNS, rows) if rows else say("No dead letters.")


@dead_letters.command()
def show(letter: LetterArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one dead letter: the reason, and the event that was delivered."""
    with connected(home) as client:
        found = client.dead_letter(letter)
    if as_json:
        print_json(found)
        return
    _show(found)


@dead_letters.command()
def redrive(letter: LetterArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Submit the job again as a new job. Prints the new job's id."""
    with connected(home) as client:
        handle = client.redrive(letter)
    print_json({"id": handle.id, "engine": handle.engine}) if as_json else print_exactly(handle.id)


@dead_letters.command()
def discard(letter: LetterArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Delete a dead letter. Its job keeps its state."""
    with connected(home) as client:
        client.discard(letter)
    print_json({"id": letter, "discarded": True}) if as_json else say(f"{letter} is discarded.")


def _show(letter: DeadLetterInfo) -> None:
    fields: dict[str, Cell] = {
        "id": letter.id,
        "engine": letter.engine or "-",
        "reason": letter.reason,
        "attempts": str(letter.attempts),
        "given up": f"{letter.created_at:%Y-%m-%d %H:%M:%S} UTC",
    }
    if letter.error:
        fields["last error"] = f"{letter.error.code}: {letter.error.message}"
    if letter.redriven_as:
        fields["redriven as"] = letter.redriven_as
    print_fields(fields)
    if letter.event:
        print_exactly(letter.event)
