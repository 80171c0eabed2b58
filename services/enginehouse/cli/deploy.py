"""`enginehouse engines deploy`, `promote`, `rollback`, `rotate` and `remove`: bring versions of an engine into a home, or remove it."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from enginehouse.cli import there
from enginehouse.cli.acts import acting
from enginehouse.cli.confirming import YesOption, confirm_removal
from enginehouse.cli.console import TerminalSteps, note, print_json, say
from enginehouse.cli.elsewhere import deploy_to
from enginehouse.cli.environments import environment
from enginehouse.cli.evidence import Evidence, ScanOption, SignatureOption, read_evidence
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.options import DeployedArgument, JsonOption
from enginehouse.cli.running import run
from enginehouse.contracts.names import PLATFORM_TENANT, EngineId, engine_of, is_trial, trial_of
from enginehouse.local import deployment
from enginehouse.local.deployment import Deployment, NotWorking
from enginehouse.local.errors import LocalError
from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.local.rotation import ask
from enginehouse.registry.deploy import deployed_engine, remove_engine
from enginehouse.registry.engines import Settings
from enginehouse.supply.evidence import put_evidence

_PANEL = "In place of what engine.yaml says"

TimeoutOption = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Longest wait. Default: until it answers, or cannot work."),
]


def deploy(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with engine.yaml.", exists=True, file_okay=False)
    ],
    home: HomeOption = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the engine answers, or cannot work.")
    ] = True,
    timeout: TimeoutOption = None,
    promote: Annotated[
        bool,
        typer.Option(
            "--promote/--no-promote", help="Give it the engine's jobs once it is fit to, or leave it on trial."
        ),
    ] = True,
    cpu: Annotated[
        str | None,
        typer.Option(metavar="CORES", help="Cores of one replica, such as 500m or 2.", rich_help_panel=_PANEL),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of one replica, such as 2Gi.", rich_help_panel=_PANEL)
    ] = None,
    gpu: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="GPUs of one replica.", rich_help_panel=_PANEL)
    ] = None,
    least: Annotated[
        int | None, typer.Option("--min", metavar="NUMBER", help="Replicas at least.", rich_help_panel=_PANEL)
    ] = None,
    most: Annotated[
        int | None, typer.Option("--max", metavar="NUMBER", help="Replicas at most.", rich_help_panel=_PANEL)
    ] = None,
    signature: SignatureOption = None,
    scan: ScanOption = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Deploy to another Enginehouse: 'enginehouse environments' lists those you have added."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy the engine in FOLDER, and wait until it answers. Exits with 1 if it does not work.

    A running 'enginehouse up' notices and starts it; nothing else changes. A new version of an engine comes up beside
    the one that serves, and takes over once it is healthy and has answered its own examples (example.json, examples/).
    """
    settings = _given(resources={"cpu": cpu, "memory": memory, "gpu": gpu}, scale={"min": least, "max": most})
    evidence = read_evidence(folder, signature, scan)
    if to is not None:
        sent = (folder, settings, evidence)
        run(_deploy_to(to, *sent, promote=promote, wait=wait, timeout=timeout, as_json=as_json))
        return
    deployed = _deploy_here(home_to_change(home), folder, settings, evidence, promote=promote, as_json=as_json)
    _follow(deployed, timeout, wait=wait, as_json=as_json)


def _given(**parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parts of engine.yaml that options set."""
    given = {
        part: {name: value for name, value in values.items() if value is not None} for part, values in parts.items()
    }
    return {part: values for part, values in given.items() if values}


def _deploy_here(
    place: Home, folder: Path, settings: Settings, evidence: tuple[str, Evidence], *, promote: bool, as_json: bool
) -> Deployment:
    digest, files = evidence
    with TerminalSteps(quiet=as_json) as steps, acting(place, "engines deploy") as act:
        for kind, content in files.items():
            put_evidence(place.supply, digest, kind, content)
        deployed = deployment.deploy(
            place, folder, settings, promote=promote, show=lambda text: steps.update("fetch", text)
        )
        act.engine, act.detail = deployed.spec.id, _act_of(deployed)
    if not as_json:
        _say_deployed(deployed)
    return deployed


async def _deploy_to(
    name: str,
    folder: Path,
    settings: Settings,
    evidence: tuple[str, Evidence],
    *,
    promote: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    place = environment(name)
    with TerminalSteps(quiet=as_json) as steps:
        deployed = await deploy_to(
            place, folder, settings, evidence, steps, promote=promote, wait=wait, timeout_seconds=timeout
        )
        how = "works" if wait else "is deployed"
        steps.finish(deployed["id"], f"{deployed['id']} {deployed['version']} {how} at {name}")
    if as_json:
        print_json({**deployed, "environment": name})
    else:
        _say_warnings(deployed["warnings"])


def _follow(deployed: Deployment, timeout: float | None, *, wait: bool, as_json: bool) -> None:
    view = None
    if deployed.home.is_running() and wait:
        view = run(_wait(deployed, timeout, as_json))
    elif not deployed.home.is_running() and not as_json:
        say("It starts with 'enginehouse up'.")
    if as_json:
        print_json(
            {
                "id": deployed.spec.id,
                "version": deployed.spec.version,
                "slot": deployed.slot,
                "bundle": str(deployed.bundle),
                "changed": deployed.changed,
                "warnings": deployed.warnings(),
                "engine": view,
            }
        )


def _say_deployed(deployed: Deployment) -> None:
    what = f"{deployed.spec.id} {deployed.spec.version}"
    say(f"{what} is deployed: {deployed.bundle}" if deployed.changed else f"{what} is unchanged.")
    _say_warnings(deployed.warnings())


def _say_warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        note(f"Note: {warning}", "yellow")


async def _wait(deployed: Deployment, timeout: float | None, as_json: bool) -> dict[str, Any]:
    engine = deployed.spec.id
    with TerminalSteps(quiet=as_json) as steps:
        try:
            view = await deployment.wait_until_answers(deployed, steps, timeout)
        except NotWorking:
            steps.close()
            was_there, went_back = deployed.is_there, deployed.give_up()
            if was_there and not as_json:
                note(_what_now(deployed, went_back))
            raise
        except asyncio.CancelledError:
            steps.close()
            note(f"{engine} stays deployed. 'enginehouse engines show {engine}' shows how it is.", "")
            raise
        steps.finish(engine, f"{engine} answers{_on_trial(deployed)}")
    if view["state"] != "active" and not as_json:
        note(f"It is {view['state']}: {view['reason'] or ''}", "yellow")
    return view


def _what_now(deployed: Deployment, went_back: bool) -> str:
    """Say what is left of a version that does not work, and what to do about it."""
    engine = deployed.spec.id
    if missing := deployed.missing_secrets():
        return f"{engine} {deployed.spec.version} waits for {', '.join(missing)}, and starts once that is set."
    what = f"The version before goes on serving {engine}" if went_back else f"{engine} stays deployed"
    logs = deployed.home.logs / f"{engine}--{deployed.slot}*.log"
    return f"{what}: mend it and deploy it again. Its logs: {logs}"


def _on_trial(deployed: Deployment) -> str:
    if not deployed.is_update:
        return ""
    engine = deployed.spec.id
    return f" on trial, as {trial_of(engine)}: 'enginehouse engines promote {engine}' gives it the jobs"


AtOption = Annotated[
    str | None,
    typer.Option("--to", metavar="NAME", help="At another Enginehouse, as in 'engines deploy --to'; ENGINE is an id."),
]


def promote(
    engine: DeployedArgument,
    to: AtOption = None,
    home: HomeOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give an engine's version on trial the engine's jobs. The version before ends those that it has."""
    if to is not None:
        there.change("promote", engine, to, timeout, as_json=as_json)
        return
    _change("promote", deployment.promote, engine, home, timeout, as_json)


def rollback(
    engine: DeployedArgument,
    to: AtOption = None,
    home: HomeOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to an engine's version before the active one: it comes up beside it, and takes over once it is fit to."""
    if to is not None:
        there.change("rollback", engine, to, timeout, as_json=as_json)
        return
    _change("rollback", deployment.roll_back, engine, home, timeout, as_json)


def _act_of(deployed: Deployment) -> str:
    return f"version {deployed.spec.version} into slot {deployed.slot}{'' if deployed.changed else ', unchanged'}{deployed.allowed_by}"


def _change(
    command: str,
    change: Callable[[Home, str], Deployment],
    engine: str,
    home: Path | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    place = home_to_change(home)
    engine_id = deployed_engine(place.engines, engine, LOCAL_TENANT)
    with acting(place, f"engines {command}", engine=engine_id) as act:
        changed = change(place, engine_id)
        act.detail = _act_of(changed)
    _follow(changed, timeout, wait=True, as_json=as_json)


def rotate(engine: DeployedArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Give an engine new credentials for the broker and new tokens. Its sidecars restart, one slot after the other; no job is lost."""
    place = home_to_change(home)
    engine = deployed_engine(place.engines, engine, LOCAL_TENANT)
    with acting(place, "engines rotate", engine=engine):
        is_done = run(ask(place, engine))
    if as_json:
        print_json({"id": engine, "rotated": is_done})
    else:
        say(
            f"{engine} has new credentials, and the former ones are refused."
            if is_done
            else f"{engine} gets new credentials as it starts."
        )


def remove(
    engine: DeployedArgument,
    yes: YesOption = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until nothing is left of the engine.")] = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove an engine. New jobs are refused, unfinished ones end as canceled, and all that is left of it is deleted."""
    place = home_to_change(home)
    if is_trial(engine):
        raise _no_removal_of_a_trial(engine_of(engine))
    engine = deployed_engine(place.engines, engine, LOCAL_TENANT)
    confirm_removal(engine, _what_goes(engine), yes=yes, as_json=as_json)
    with acting(place, "engines remove", engine=engine):
        remove_engine(place.engines, engine)
    is_gone = wait and place.is_running()
    if is_gone:
        run(_wait_until_gone(place, engine, as_json))
    if as_json:
        print_json({"id": engine, "removed": is_gone})
    elif not is_gone:
        say(
            f"{engine} is being removed."
            if place.is_running()
            else f"{engine} is removed by the next 'enginehouse up'."
        )


def _no_removal_of_a_trial(engine: str) -> LocalError:
    return LocalError(
        f"{trial_of(engine)} is a version on trial, and 'remove' removes whole engines.",
        f"The next 'enginehouse engines deploy FOLDER' takes its place, and 'enginehouse engines promote {engine}' gives it "
        f"the jobs; 'enginehouse engines remove {engine}' removes all versions.",
    )


def _what_goes(engine: str) -> str:
    whose = ", which every tenant may use," if EngineId.parse(engine).tenant == PLATFORM_TENANT else ""
    return f"Delete {engine}{whose} and all that is left of it?"


async def _wait_until_gone(home: Home, engine: str, as_json: bool) -> None:
    with TerminalSteps(quiet=as_json) as steps:
        await deployment.wait_until_gone(home, home.engines / engine, steps)
        steps.finish(engine, f"{engine} is removed")
