"""`enginehouse engines`: list engines, show one, and operate them."""

import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from enginehouse.cli.connection import clean, clean_lines, connected, print_table
from enginehouse.cli.console import out
from enginehouse.cli.jobs import JsonOption, print_json
from enginehouse.cli.running import DEFAULT_HOME, HomeOption
from enginehouse.client import EngineInfo

EXAMPLES = """Examples:

enginehouse engines

enginehouse engines show standard

enginehouse engines deploy my-engine/

enginehouse engines quarantine acme--ocr --reason "answers nonsense since v3"

enginehouse engines resume acme--ocr

enginehouse engines purge acme--ocr"""

engines = typer.Typer(invoke_without_command=True, epilog=EXAMPLES)

_BRIEF_LENGTH = 60
_HEALTH_STYLES = {"healthy": "green", "asleep": "cyan", "unknown": "yellow"}


@engines.callback()
def list_engines(context: typer.Context, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the engines you may use. Or show, deploy, quarantine, resume, purge or remove one."""
    if context.invoked_subcommand:
        return
    with connected(home) as client:
        found = client.engines()
    if as_json:
        print_json([engine.model_dump(mode="json") for engine in found])
        return
    table = Table("engine", "version", "state", "queued", "running", "workers", "what it does", box=None)
    for engine in found:
        table.add_row(engine.id, engine.version or "-", *_condition(engine), _brief(engine.description))
    print_table(table) if found else out.print("No engines. 'enginehouse engines deploy FOLDER' adds one.")
    for engine in found:
        if engine.reason:
            out.print(Text(f"{engine.id}: {clean_lines(engine.reason)}", style="yellow"), soft_wrap=True)


@engines.command()
def show(
    engine: Annotated[str, typer.Argument(help="NAME or TENANT--NAME.", show_default=False)],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one engine: its condition, its limits, and the schemas of its input and output."""
    with connected(home) as client:
        found = client.engine(engine)
    if as_json:
        print_json(found)
        return
    state, queued, running, workers = _condition(found)
    table = Table.grid(padding=(0, 2))
    fields = {"engine": found.id, "version": found.version or "-", "what it does": clean(found.description)}
    for name, value in fields.items():
        table.add_row(Text(name, style="dim"), value)
    health = "" if found.state == "active" else f" · {found.health}"
    table.add_row(Text("state", style="dim"), Text.assemble(state, health))
    if found.reason:
        table.add_row(Text("reason", style="dim"), Text(clean_lines(found.reason)))
    table.add_row(Text("jobs", style="dim"), f"{queued} queued, {running} running, {workers} workers")
    if card := found.card:
        limits = f"{card.concurrency} jobs at once, {card.execution_timeout_seconds:g} s each, {card.retry.max_attempts} attempts"
        table.add_row(Text("limits", style="dim"), limits)
    print_table(table)
    if card := found.card:
        for name, schema in (("input", card.input_schema), ("output", card.output_schema), ("example", card.example)):
            typer.echo(f"\n{name}: {json.dumps(schema, indent=2)}")


EngineIdArgument = Annotated[str, typer.Argument(help="TENANT--NAME.", show_default=False)]


@engines.command()
def quarantine(
    engine: EngineIdArgument,
    reason: Annotated[str, typer.Option(help="The reason. The engine's owner can read it.", show_default=False)],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Stop all delivery to an engine, also after restarts. Its jobs stay queued. Needs an administrator's key."""
    with connected(home) as client:
        found = client.quarantine(engine, reason)
    _print_state(found, as_json)


@engines.command()
def resume(engine: EngineIdArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Deliver jobs to a paused or quarantined engine again, in order. Needs an administrator's key."""
    with connected(home) as client:
        found = client.resume(engine)
    _print_state(found, as_json)


@engines.command()
def purge(engine: EngineIdArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Cancel every job that waits for an engine. Running jobs continue. Needs an administrator's key."""
    with connected(home) as client:
        canceled = client.purge(engine)
    if as_json:
        print_json({"engine": engine, "canceled": canceled})
    else:
        out.print(f"{canceled} jobs of {clean(engine)} are canceled.")


def _print_state(engine: EngineInfo, as_json: bool) -> None:
    if as_json:
        print_json(engine)
        return
    waiting = engine.queue.jobs.queued if engine.queue else 0
    out.print(f"{engine.id} is {engine.state}; {waiting} jobs are queued.", soft_wrap=True)


def _brief(description: str) -> str:
    text = clean(description)
    return text if len(text) <= _BRIEF_LENGTH else text[: _BRIEF_LENGTH - 1] + "…"


def _condition(engine: EngineInfo) -> tuple[Text, str, str, str]:
    # An active engine is only allowed to work. Whether it can is its health.
    is_active = engine.state == "active"
    style = _HEALTH_STYLES.get(engine.health, "red") if is_active else "yellow"
    state = Text(engine.health if is_active else engine.state, style=style)
    if engine.queue is None:
        return state, "-", "-", "-"
    jobs, workers = engine.queue.jobs, engine.queue.workers
    return state, str(jobs.queued), str(jobs.running), str(workers.idle + workers.running)
