"""`enginehouse engines deploy FOLDER` and `engines remove ID`: put an engine's bundle into a home, or remove it."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from enginehouse.cli.connection import clean_lines
from enginehouse.cli.console import TerminalSteps, err, out, print_error
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.running import run
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.local import deployment
from enginehouse.local.deployment import Deployment, NotWorking
from enginehouse.registry.deploy import remove_engine


def deploy(
    folder: Annotated[Path, typer.Argument(help="Folder with engine.yaml.", exists=True, file_okay=False)],
    home: HomeOption = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the engine answers, or cannot work.")
    ] = True,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Longest wait in seconds. Default: until it answers, or cannot work.")
    ] = None,
) -> None:
    """Deploy the engine in FOLDER, and wait until it answers. Exits with 1 if it does not work.

    A running 'enginehouse up' notices and starts it; nothing else changes.
    """
    try:
        place = home_to_change(home)
        deployed = deployment.deploy(place, folder)
    except EnginehouseError as error:
        print_error(error)
        raise typer.Exit(1) from None
    what = f"{deployed.spec.id} {deployed.spec.version}"
    out.print(f"{what} is deployed: {deployed.bundle}" if deployed.changed else f"{what} is unchanged.", soft_wrap=True)
    for warning in deployed.warnings():
        err.print(Text(f"Note: {warning}", style="yellow"), soft_wrap=True)
    if not place.is_running():
        out.print("It starts with 'enginehouse up'.")
    elif wait:
        run(_wait(deployed, timeout))


async def _wait(deployed: Deployment, timeout: float | None) -> None:
    engine = deployed.spec.id
    with TerminalSteps() as steps:
        try:
            view = await deployment.wait_until_answers(deployed, steps, timeout)
        except NotWorking as error:
            steps.finish(engine, clean_lines(str(error)), ok=False)
            logs = deployed.home.logs / f"{engine}--*.log"
            err.print(f"Its logs: {logs}. It stays deployed: mend it and deploy it again.", style="dim", soft_wrap=True)
            raise typer.Exit(1) from None
        except asyncio.CancelledError:
            steps.close()
            err.print(f"{engine} stays deployed. 'enginehouse engines show {engine}' shows how it is.", soft_wrap=True)
            raise
        steps.finish(engine, f"{engine} answers")
    if view["state"] != "active":
        err.print(Text(f"It is {view['state']}: {clean_lines(view['reason'] or '')}", style="yellow"), soft_wrap=True)


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
