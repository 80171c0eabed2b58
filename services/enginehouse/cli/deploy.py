"""`enginehouse engines deploy FOLDER` and `engines remove ID`: put an engine's bundle into a home, or remove it."""

from pathlib import Path
from typing import Annotated

import typer

from enginehouse.cli.console import print_json, say
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.options import DeployedArgument, JsonOption
from enginehouse.local.home import LOCAL_TENANT
from enginehouse.registry.deploy import deploy_engine, deployed_engine, remove_engine


def deploy(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with engine.yaml.", exists=True, file_okay=False)
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy the engine in FOLDER. A running 'enginehouse up' notices and starts it; nothing else changes."""
    place = home_to_change(home)
    spec = deploy_engine(place.engines, folder)
    if as_json:
        print_json({"id": spec.id, "version": spec.version, "bundle": str(place.engines / spec.id)})
        return
    say(f"{spec.id} {spec.version} is deployed: {place.engines / spec.id}")
    if not place.is_running():
        say("It starts with 'enginehouse up'.")


def remove(engine: DeployedArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Remove an engine. A running 'enginehouse up' notices and stops it."""
    engines = home_to_change(home).engines
    engine = deployed_engine(engines, engine, LOCAL_TENANT)
    remove_engine(engines, engine)
    print_json({"id": engine, "removed": True}) if as_json else say(f"{engine} is removed.")
