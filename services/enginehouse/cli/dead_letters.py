"""`enginehouse dead-letters`: list jobs and events that were given up, submit them again, or delete them."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from enginehouse.cli.connection import clean, connected, print_table
from enginehouse.cli.console import out
from enginehouse.cli.homes import HomeOption
from enginehouse.cli.jobs import JsonOption, age, print_json
from enginehouse.client import DeadLetterInfo

EXAMPLES = """Examples:

enginehouse dead-letters

enginehouse dead-letters show 01890a5d-ac96-7b2a-8c4e-0123456789ab

enginehouse dead-letters redrive 01890a5d-ac96-7b2a-8c4e-0123456789ab

enginehouse dead-letters --unparsable --json"""

dead_letters = typer.Typer(invoke_without_command=True, epilog=EXAMPLES)

_BRIEF_LENGTH = 80
LetterArgument = Annotated[
    str, typer.Argument(help="Id of the dead letter, as listed. It is the job's id.", show_default=False)
]
UnparsableOption = Annotated[
    bool,
    typer.Option(
        "--unparsable", help="Only events that could not be parsed and so belong to no tenant. For operators."
    ),
]
LimitOption = Annotated[int, typer.Option(min=1, help="Most dead letters to list.")]


@dead_letters.callback()
def list_dead_letters(
    context: typer.Context,
    unparsable: UnparsableOption = False,
    limit: LimitOption = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest first, with the reason of each. Or show, redrive or discard one."""
    if context.invoked_subcommand is None:
        _list(unparsable, limit, home, as_json)


@dead_letters.command("list")
def list_again(
    unparsable: UnparsableOption = False,
    limit: LimitOption = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, as 'enginehouse dead-letters' does."""
    _list(unparsable, limit, home, as_json)


def _list(unparsable: bool, limit: int, home: HomeOption, as_json: bool) -> None:
    with connected(home) as client:
        found = list(client.dead_letters(unparsable=unparsable, limit=limit))
    if as_json:
        print_json([letter.model_dump(mode="json", exclude={"event"}) for letter in found])
        return
    table = Table("id", "engine", "reason", "attempts", "age", "redriven as", "last error", box=None)
    for letter in found:
        error = clean(letter.error.message)[:_BRIEF_LENGTH] if letter.error else ""
        table.add_row(
            letter.id,
            letter.engine or "-",
            Text(clean(letter.reason), style="red"),
            str(letter.attempts),
            age(letter.created_at),
            letter.redriven_as or "",
            Text(error),
        )
    print_table(table) if found else out.print("No dead letters.")


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
    print_json({"id": handle.id, "engine": handle.engine}) if as_json else typer.echo(handle.id)


@dead_letters.command()
def discard(letter: LetterArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Delete a dead letter. Its job keeps its state."""
    with connected(home) as client:
        client.discard(letter)
    print_json({"id": letter, "discarded": True}) if as_json else out.print(f"{clean(letter)} is discarded.")


def _show(letter: DeadLetterInfo) -> None:
    fields = {
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
    table = Table.grid(padding=(0, 2))
    for name, value in fields.items():
        table.add_row(Text(name, style="dim"), Text(clean(value)))
    print_table(table)
    if letter.event:
        typer.echo(clean(letter.event))
