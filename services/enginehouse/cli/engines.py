"""`enginehouse engines`: list engines, show one, and operate them."""

import json
from typing import Annotated

import typer
from rich.text import Text

from enginehouse.cli.commands import Lists
from enginehouse.cli.connection import connected
from enginehouse.cli.console import print_exactly, print_json, say
from enginehouse.cli.homes import HomeOption
from enginehouse.cli.options import EngineArgument, JsonOption
from enginehouse.cli.tables import Cell, Column, Fit, print_fields, print_table
from enginehouse.client import Client, EngineInfo

EXAMPLES = """Examples:

enginehouse engines

enginehouse engines show standard

enginehouse engines new acme/sentiment

enginehouse engines deploy sentiment/

enginehouse engines render sentiment/ --kubernetes --into sentiment-in-kubernetes

enginehouse engines show acme--sentiment@trial

enginehouse engines replay acme--sentiment --last 500

enginehouse engines rollback acme--sentiment

enginehouse engines diff acme--sentiment --to production

enginehouse engines rotate acme--sentiment

enginehouse engines quarantine acme--ocr --reason "answers nonsense since v3"

enginehouse engines resume acme--ocr

enginehouse engines purge acme--ocr

enginehouse engines logs acme--sentiment --follow

enginehouse engines info label.team=nlp

enginehouse engines update name=sentiment --data '{"model": "v7"}'"""

engines = typer.Typer(cls=Lists, epilog=EXAMPLES)

_COLUMNS = (
    Column("engine", fit=Fit.MIDDLE),
    Column("version", worth=1),
    Column("state"),
    Column("queued", worth=5, right=True),
    Column("running", worth=3, right=True),
    Column("workers", worth=2, right=True),
    Column("what it does", worth=4, fit=Fit.WORDS),
)
_HEALTH_STYLES = {"healthy": "green", "asleep": "cyan", "unknown": "yellow"}


@engines.callback()
def callback() -> None:
    """List the engines you may use, or make, show, test, render, deploy, promote, compare, replay, roll back, rotate, quarantine, resume, purge or remove one, or ask many. Without a command: list."""


@engines.command("list")
def list_engines(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the engines you may use."""
    with connected(home) as client:
        found = client.engines()
    if as_json:
        print_json([engine.model_dump(mode="json") for engine in found])
        return
    rows = [(engine.id, engine.version or "-", *_condition(engine), engine.description) for engine in found]
    print_table(_COLUMNS, rows) if rows else say("No engines. 'enginehouse engines new NAME' begins one.")
    for engine in found:
        if engine.reason:
            say(f"{engine.id}: {engine.reason}", "yellow")


@engines.command()
def show(
    engine: EngineArgument,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one engine: its condition, its limits, and the schemas of its input and output."""
    with connected(home) as client:
        found = client.engine(engine)
    if as_json:
        print_json(found)
        return
    state, queued, running, workers = _condition(found)
    health = "" if found.state == "active" else f" · {found.health}"
    fields: dict[str, Cell] = {
        "engine": found.id,
        "version": found.version or "-",
        "what it does": found.description,
        "state": Text.assemble(state, health),
    }
    if found.reason:
        fields["reason"] = found.reason
    if found.warning:
        fields["warning"] = Text(found.warning, "yellow")
    if found.misbehaviour:
        counted = [f"{times} {misdeed.replace('_', ' ')}" for misdeed, times in found.misbehaviour.items()]
        fields["misbehaviour"] = Text(", ".join(counted), "yellow")
    fields["jobs"] = f"{queued} queued, {running} running, {workers} workers"
    if card := found.card:
        limits = f"{card.execution_timeout_seconds:g} s each, {card.retry.max_attempts} attempts"
        fields["limits"] = f"{card.concurrency} jobs at once, {limits}"
    print_fields(fields)
    if card := found.card:
        for name, schema in (("input", card.input_schema), ("output", card.output_schema), ("example", card.example)):
            print_exactly(f"\n{name}: {json.dumps(schema, indent=2)}")


@engines.command()
def quarantine(
    engine: EngineArgument,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason. The engine's owner can read it.", show_default=False)
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop an engine: its processes, its sidecar, its credentials. Its jobs stay queued. Needs an administrator's key."""
    with connected(home) as client:
        found = client.quarantine(_id(client, engine), reason)
    _print_state(found, as_json)


@engines.command()
def resume(engine: EngineArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Start a quarantined engine again with new credentials, or end a pause. Its jobs follow in order. An operator's quarantine needs an administrator's key."""
    with connected(home) as client:
        found = client.resume(_id(client, engine))
    _print_state(found, as_json)


@engines.command()
def purge(engine: EngineArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Cancel every job that waits for an engine. Running jobs continue. Needs an administrator's key."""
    with connected(home) as client:
        engine = _id(client, engine)
        canceled = client.purge(engine)
    if as_json:
        print_json({"engine": engine, "canceled": canceled})
    else:
        say(f"{canceled} jobs of {engine} are canceled.")


def _id(client: Client, name: str) -> str:
    """Return the id of the engine that a name means: your own engine, or a shared one. An administrator may name any id."""
    return name if "--" in name else client.engine(name).id


def _print_state(engine: EngineInfo, as_json: bool) -> None:
    if as_json:
        print_json(engine)
        return
    waiting = engine.queue.jobs.queued if engine.queue else 0
    say(f"{engine.id} is {engine.state}; {waiting} jobs are queued.")


def _condition(engine: EngineInfo) -> tuple[Text, str, str, str]:
    # An active engine is only allowed to work. Whether it can is its health.
    is_active = engine.state == "active"
    style = _HEALTH_STYLES.get(engine.health, "red") if is_active else "yellow"
    state = Text(engine.health if is_active else engine.state, style=style)
    if engine.queue is None:
        return state, "-", "-", "-"
    jobs, workers = engine.queue.jobs, engine.queue.workers
    return state, str(jobs.queued), str(jobs.running), str(workers.idle + workers.running)
