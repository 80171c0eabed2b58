"""`enginehouse engines new NAME` and `engines test FOLDER`: what an author does before deploying an engine."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from enginehouse.authoring.findings import Finding, Report
from enginehouse.authoring.template import Wanted, make_engine
from enginehouse.cli.console import TerminalSteps, harmless, note, out, print_exactly, print_json, say, wrap
from enginehouse.cli.failures import FAILED
from enginehouse.cli.homes import HomeOption, existing_home
from enginehouse.cli.options import JsonOption
from enginehouse.cli.running import run
from enginehouse.contracts.names import PLATFORM_TENANT, EngineId
from enginehouse.homes import NoHome
from enginehouse.local.home import LOCAL_TENANT, Home

_STYLES = {"ok": "green", "note": "yellow", "failed": "red"}
_VERDICT_WIDTH, _CHECK_WIDTH = 8, 15
_OUTPUT_INDENT = "    "


def new(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"TENANT/NAME, TENANT--NAME, or NAME for the tenant {LOCAL_TENANT!r}.",
            show_default=False,
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Folder to make. Default: one with the engine's name, here."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the folder of a new engine, ready to edit, test and deploy."""
    wanted = Wanted.read(name, LOCAL_TENANT)
    place = folder or Path(wanted.name)
    engine = make_engine(wanted, place)
    commands = _next_commands(engine, place)
    if as_json:
        print_json({"id": str(engine), "folder": str(place.resolve()), "next": commands})
        return
    say(f"{engine} is made in {place}: edit engine.py and engine.yaml. Then:")
    for command in commands:
        print_exactly(f"  {command}")


def _next_commands(engine: EngineId, folder: Path) -> list[str]:
    where = shlex.quote(str(folder))
    submit = f"enginehouse submit {engine} --input @{shlex.quote(str(folder / 'example.json'))} --wait"
    return [
        f"enginehouse engines test {where}",
        *_tenant_commands(engine.tenant),
        f"enginehouse engines deploy {where}",
        submit,
    ]


def _tenant_commands(tenant: str) -> list[str]:
    """Return how to make the engine's tenant, if it is not here yet, and how to have its key at hand."""
    if tenant in (LOCAL_TENANT, PLATFORM_TENANT):
        return []
    try:
        is_here = tenant in existing_home(None).tenant_bundles()
    except NoHome:
        is_here = False
    key = "KEY" if is_here else f"$(enginehouse tenant add {tenant})"
    return [f"export ENGINEHOUSE_API_KEY={key}" + (f"  # a key of {tenant}" if is_here else "")]


def try_out(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with engine.yaml.", exists=True, file_okay=False)
    ],
    fuzz: Annotated[
        bool, typer.Option("--fuzz", help="Also try inputs derived from its schema, for 30 s. Needs the extra 'fuzz'.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Longest time until the engine is healthy.")
    ] = 60,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try the engine in FOLDER alone, and say what is wrong with it and why. Exits with 1 if a check fails."""
    # It imports the runner's clients, which would slow down every other command.
    from enginehouse.authoring.tryout import Options, try_engine

    place = _home_if_any(home)
    with TerminalSteps(quiet=as_json) as steps:

        def show(finding: Finding) -> None:
            for line in () if as_json else _lines(finding, out.width if out.is_terminal else None):
                steps.print(line)

        report = Report(show)
        spec = run(try_engine(folder.resolve(), place, steps, report, Options(timeout, fuzz)))
    name = spec.id if spec else str(folder)
    if as_json:
        checks = [asdict(finding) for finding in report.findings]
        print_json({"id": spec.id if spec else None, "ok": not report.failures, "checks": checks})
    elif report.failures:
        say(f"{name}: {report.failures} of {len(report.findings)} checks failed.", "red")
    else:
        say(f"{name} works. 'enginehouse engines deploy {shlex.quote(str(folder))}' puts it to work.")
        if place is None:
            note("Whether its tenant exists is not known: there is no Enginehouse here.")
    if report.failures:
        raise typer.Exit(FAILED)


def _lines(finding: Finding, width: int | None) -> Iterator[Text]:
    """Return what is shown of a finding: the verdict, the check and the words; below, the engine's own."""
    indent = _VERDICT_WIDTH + _CHECK_WIDTH
    head = Text.assemble(
        (finding.verdict.ljust(_VERDICT_WIDTH), _STYLES[finding.verdict]), (finding.check.ljust(_CHECK_WIDTH), "dim")
    )
    said = harmless(finding.said)
    for at, line in enumerate(said.split("\n") if width is None else wrap(said, max(width - indent, 20))):
        yield Text.assemble(Text(" " * indent) if at else head, line)
    for line in harmless(finding.output).split("\n") if finding.output else ():
        for part in [line] if width is None else line.wrap(out, max(width - len(_OUTPUT_INDENT), 20)):
            part.rstrip()
            yield Text.assemble(_OUTPUT_INDENT, part)


def _home_if_any(given: Path | None) -> Home | None:
    """Return the home that is given, or the nearest one; None if there is none."""
    try:
        return existing_home(given)
    except NoHome:
        if given is not None:
            raise
        return None
