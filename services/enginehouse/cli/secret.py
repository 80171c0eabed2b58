"""`enginehouse engines secret`: set, list and remove the values of engines' secrets. No command prints a value."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from enginehouse.cli.acts import acting
from enginehouse.cli.commands import Commands
from enginehouse.cli.console import note, print_exactly, print_json, say
from enginehouse.cli.environments import environment
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.options import JsonOption
from enginehouse.cli.registry_calls import call
from enginehouse.contracts.engine import check_secret_name
from enginehouse.contracts.names import EngineId
from enginehouse.local.deployment import engines_of
from enginehouse.local.errors import LocalError
from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.registry.deploy import deployed_engine

EXAMPLES = """Examples:

enginehouse engines secret set acme/sentiment HF_TOKEN

enginehouse engines secret set acme/sentiment HF_TOKEN < token.txt

enginehouse engines secret set acme/sentiment HF_TOKEN --to staging < token.txt

enginehouse engines secret list acme/sentiment"""

secret = typer.Typer(cls=Commands, epilog=EXAMPLES)

EngineIdArgument = Annotated[
    str, typer.Argument(metavar="ENGINE", help="TENANT/NAME or TENANT--NAME; here also NAME.", show_default=False)
]
SecretArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the secret, as in engine.yaml.", show_default=False)
]


@secret.callback()
def callback() -> None:
    """Set, list or remove values of the secrets that an engine's engine.yaml names."""


ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="NAME", help="Of the engine at another Enginehouse, as in 'engines deploy --to'."),
]


@secret.command("set")
def set_value(
    engine: EngineIdArgument,
    name: SecretArgument,
    to: ToOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set a value: from standard input, or typed unseen. A running engine that names it restarts with another value."""
    if to is None:
        place, engine_id = _here(engine, home)
        engines = engines_of(place)
        engines.check_secret(engine_id, name)
        value = _value(name)
        with acting(place, "engines secret set", engine=engine_id) as act:
            act.detail = f"secret {name}"
            changed = engines.set_secret(engine_id, name, value)
    else:
        engine_id = _id(engine)
        path = f"/v1/engines/{engine_id}/secrets/{check_secret_name(name)}"
        changed = _ask(to, "PUT", path, {"value": _value(name)})["changed"]
    if as_json:
        print_json({"engine": engine_id, "set": name, "changed": changed})
    else:
        say(f"{name} of {engine_id} is set." if changed else f"{name} of {engine_id} has this value already.")


@secret.command("list")
def list_names(
    engine: EngineIdArgument, to: ToOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """List the names of an engine's secrets that have a value."""
    if to is None:
        place, engine_id = _here(engine, home)
        names = engines_of(place).secret_names(engine_id)
    else:
        names = _ask(to, "GET", f"/v1/engines/{_id(engine)}/secrets")["secrets"]
    if as_json:
        print_json(names)
        return
    for name in names:
        print_exactly(name)
    if not names:
        note("No secret has a value.")


@secret.command("rm")
def remove(
    engine: EngineIdArgument,
    name: SecretArgument,
    to: ToOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget a value. A running engine that names it stops, because it cannot start without."""
    if to is None:
        place, engine_id = _here(engine, home)
        with acting(place, "engines secret rm", engine=engine_id) as act:
            engines_of(place).remove_secret(engine_id, name)
            act.detail = f"secret {name}"
    else:
        engine_id = _id(engine)
        _ask(to, "DELETE", f"/v1/engines/{engine_id}/secrets/{check_secret_name(name)}")
    print_json({"engine": engine_id, "removed": name}) if as_json else say(f"{name} of {engine_id} is forgotten.")


def _here(engine: str, home: Path | None) -> tuple[Home, str]:
    """Return the home, and the id of the engine that is named. Raise EngineDoesNotExist."""
    place = home_to_change(home)
    return place, deployed_engine(place.engines, engine.replace("/", "--", 1), LOCAL_TENANT)


def _id(engine: str) -> str:
    return str(EngineId.parse(engine.replace("/", "--", 1)))


def _ask(name: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
    place = environment(name)
    return call(place.url, place.key, method, path, body)


def _value(name: str) -> str:
    """Ask for a value, or read it from standard input. It is never in the arguments, which every process can read."""
    if sys.stdin.isatty():
        value: str = typer.prompt(f"Value of {name}", hide_input=True, err=True)
        return value
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise LocalError(f"The value of {name} is not UTF-8 text.", "Write it as base64, for example.") from None
