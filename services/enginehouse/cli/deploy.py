"""`enginehouse engines deploy FOLDER` and `engines remove ID`: put an engine's bundle into a home, or remove it."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from enginehouse.cli.console import TerminalSteps, note, print_json, say
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.options import DeployedArgument, JsonOption
from enginehouse.cli.running import run
from enginehouse.local import deployment
from enginehouse.local.deployment import Deployment, NotWorking
from enginehouse.local.home import LOCAL_TENANT
from enginehouse.registry.deploy import deployed_engine, remove_engine


def deploy(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with engine.yaml.", exists=True, file_okay=False)
    ],
    home: HomeOption = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the engine answers, or cannot work.")
    ] = True,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Longest wait. Default: until it answers, or cannot work."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy the engine in FOLDER, and wait until it answers. Exits with 1 if it does not work.

    A running 'enginehouse up' notices and starts it; nothing else changes.
    """
    place = home_to_change(home)
    deployed = deployment.deploy(place, folder)
    if not as_json:
        _say_deployed(deployed)
    view = None
    if place.is_running() and wait:
        view = run(_wait(deployed, timeout, as_json))
    elif not place.is_running() and not as_json:
        say("It starts with 'enginehouse up'.")
    if as_json:
        print_json(
            {
                "id": deployed.spec.id,
                "version": deployed.spec.version,
                "bundle": str(deployed.bundle),
                "changed": deployed.changed,
                "warnings": deployed.warnings(),
                "engine": view,
            }
        )


def _say_deployed(deployed: Deployment) -> None:
    what = f"{deployed.spec.id} {deployed.spec.version}"
    say(f"{what} is deployed: {deployed.bundle}" if deployed.changed else f"{what} is unchanged.")
    for warning in deployed.warnings():
        note(f"Note: {warning}", "yellow")


async def _wait(deployed: Deployment, timeout: float | None, as_json: bool) -> dict[str, Any]:
    engine = deployed.spec.id
    with TerminalSteps(quiet=as_json) as steps:
        try:
            view = await deployment.wait_until_answers(deployed, steps, timeout)
        except NotWorking:
            steps.close()
            if not as_json:
                logs = deployed.home.logs / f"{engine}--*.log"
                note(f"{engine} stays deployed: mend it and deploy it again. Its logs: {logs}")
            raise
        except asyncio.CancelledError:
            steps.close()
            note(f"{engine} stays deployed. 'enginehouse engines show {engine}' shows how it is.", "")
            raise
        steps.finish(engine, f"{engine} answers")
    if view["state"] != "active" and not as_json:
        note(f"It is {view['state']}: {view['reason'] or ''}", "yellow")
    return view


def remove(engine: DeployedArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Remove an engine. A running 'enginehouse up' notices and stops it."""
    engines = home_to_change(home).engines
    engine = deployed_engine(engines, engine, LOCAL_TENANT)
    remove_engine(engines, engine)
    print_json({"id": engine, "removed": True}) if as_json else say(f"{engine} is removed.")
