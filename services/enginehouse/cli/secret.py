"""`enginehouse engines secret`: set, list and remove the values of engines' secrets. No command prints a value."""

import sys
from typing import Annotated

import typer

from enginehouse.cli.commands import Commands
from enginehouse.cli.console import note, print_exactly, print_json, say
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.options import JsonOption
from enginehouse.contracts.names import EngineId
from enginehouse.registry.secrets import remove_secret, secret_names, set_secret

EXAMPLES = """Examples:

enginehouse engines secret set acme/sentiment HF_TOKEN

enginehouse engines secret set acme/sentiment HF_TOKEN < token.txt

enginehouse engines secret list acme/sentiment"""

secret = typer.Typer(cls=Commands, epilog=EXAMPLES)

EngineIdArgument = Annotated[
    str, typer.Argument(metavar="ENGINE", help="TENANT/NAME or TENANT--NAME.", show_default=False)
]
SecretArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the secret, as in engine.yaml.", show_default=False)
]


@secret.callback()
def callback() -> None:
    """Set, list or remove values of the secrets that an engine's engine.yaml names."""


@secret.command("set")
def set_value(
    engine: EngineIdArgument, name: SecretArgument, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Set a value: from standard input, or typed unseen. A running engine that names it restarts with it."""
    place, engine_id = home_to_change(home), _id(engine)
    value = typer.prompt(f"Value of {name}", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read()
    set_secret(place.path, engine_id, name, value.removesuffix("\n").removesuffix("\r"))
    print_json({"engine": engine_id, "set": name}) if as_json else say(f"{name} of {engine_id} is set.")


@secret.command("list")
def list_names(engine: EngineIdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the names of an engine's secrets that have a value."""
    names = secret_names(home_to_change(home).path, _id(engine))
    if as_json:
        print_json(names)
        return
    for name in names:
        print_exactly(name)
    if not names:
        note("No secret has a value.")


@secret.command("rm")
def remove(
    engine: EngineIdArgument, name: SecretArgument, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Forget a value. A running engine that names it stops, because it cannot start without."""
    engine_id = _id(engine)
    remove_secret(home_to_change(home).path, engine_id, name)
    print_json({"engine": engine_id, "removed": name}) if as_json else say(f"{name} of {engine_id} is forgotten.")


def _id(engine: str) -> str:
    return str(EngineId.parse(engine.replace("/", "--", 1)))
