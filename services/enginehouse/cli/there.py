"""`enginehouse engines diff`, and what `promote` and `rollback` do at another Enginehouse: through its registry."""

from typing import Annotated, Any

import typer

from enginehouse.cli.console import TerminalSteps, print_exactly, print_json, say
from enginehouse.cli.elsewhere import change_at
from enginehouse.cli.environments import environment
from enginehouse.cli.options import JsonOption
from enginehouse.cli.registry_calls import call
from enginehouse.cli.running import run
from enginehouse.contracts.names import EngineId

IdArgument = Annotated[str, typer.Argument(metavar="ENGINE", help="TENANT--NAME or TENANT/NAME.", show_default=False)]


def diff(
    engine: IdArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="NAME", help="The Enginehouse whose registry deploys into a cluster.", show_default=False
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show what of an engine differs in a Kubernetes cluster from what its bundle says. Exits with 1 if anything does.

    The cluster itself is asked what an apply would change. Secrets are left out.
    """
    place = environment(to)
    found = call(place.url, place.key, "GET", f"/v1/engines/{engine_id(engine)}/diff")
    if as_json:
        print_json(found)
    else:
        _say(found)
    if found["differences"]:
        raise typer.Exit(1)


def _say(found: dict[str, Any]) -> None:
    for each in found["differences"]:
        print_exactly(f"{each['object']}: {each['change']}")
        if each["diff"]:
            print_exactly(each["diff"])
    if not found["differences"]:
        say(f"The cluster has {found['id']} exactly as its bundle says.")


def change(command: str, engine: str, to: str, timeout: float | None, *, as_json: bool) -> None:
    """Promote the version on trial, or go back to the one before, at another Enginehouse, and wait until it serves."""
    place, engine = environment(to), engine_id(engine)
    with TerminalSteps(quiet=as_json) as steps:
        changed = run(change_at(place, engine, command, steps, timeout))
        steps.finish(engine, f"{engine} {changed['version']} works at {to}")
    if as_json:
        print_json({**changed, "environment": to})


def engine_id(text: str) -> str:
    """Return the id of an engine that is named by TENANT--NAME or TENANT/NAME. Raise InvalidName."""
    return str(EngineId.parse(text.replace("/", "--", 1)))
