"""`enginehouse engines deploy FOLDER` and `engines remove ID`: put an engine's bundle into a home, or remove it."""

from pathlib import Path
from typing import Annotated

import typer

from enginehouse.cli.console import out, print_error
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.registry.deploy import deploy_engine, remove_engine


def deploy(
    folder: Annotated[Path, typer.Argument(help="Folder with engine.yaml.", exists=True, file_okay=False)],
    home: HomeOption = None,
) -> None:
    """Deploy the engine in FOLDER. A running 'enginehouse up' notices and starts it; nothing else changes."""
    try:
        place = home_to_change(home)
        spec = deploy_engine(place.engines, folder)
    except EnginehouseError as error:
        print_error(error)
        raise typer.Exit(1) from None
    out.print(f"{spec.id} {spec.version} is deployed: {place.engines / spec.id}", soft_wrap=True)
    if not place.is_running():
        out.print("It starts with 'enginehouse up'.")


def remove(
    engine: Annotated[str, typer.Argument(help="<tenant>--<engine>")],
    home: HomeOption = None,
) -> None:
    """Remove an engine. A running 'enginehouse up' notices and stops it."""
    try:
        remove_engine(home_to_change(home).engines, engine)
    except EnginehouseError as error:
        print_error(error)
        raise typer.Exit(1) from None
    out.print(f"{engine} is removed.")
