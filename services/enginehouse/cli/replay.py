"""`enginehouse engines replay`: show what an engine's version on trial would answer to inputs that were answered before."""

from typing import Annotated

import typer
from rich.text import Text

from enginehouse.cli.connection import connected
from enginehouse.cli.console import TerminalSteps, print_json, say
from enginehouse.cli.homes import HomeOption
from enginehouse.cli.options import EngineArgument, JsonOption
from enginehouse.cli.tables import Column, print_table
from enginehouse.client import Client
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.names import engine_of
from enginehouse.contracts.replay import REPLAYED_MAX, Example, ReplayReport, ReplayRequest, Side

EXAMPLES = """Examples:

enginehouse engines deploy sentiment/ --no-promote

enginehouse engines replay acme--sentiment --last 500

enginehouse engines replay sentiment --tolerance 0.01 --json && enginehouse engines promote sentiment"""

_COLUMNS = (
    Column("version"),
    Column("succeeded", right=True),
    Column("failed", right=True),
    Column("p50", right=True),
    Column("p95", right=True),
)


def replay(
    engine: EngineArgument,
    last: Annotated[
        int, typer.Option(min=1, max=REPLAYED_MAX, metavar="NUMBER", help="How many of the last jobs to replay.")
    ] = 100,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Relative difference at which two numbers count as the same.")
    ] = 1e-6,
    timeout: Annotated[
        int, typer.Option(min=1, max=3_600, metavar="SECONDS", help="After this time, tell how far it came.")
    ] = 600,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the last inputs of an engine once more on its version on trial, and show what changes. For its owner.

    Exits with 1 if an output differs, a job fails that did not, or not all were replayed. No caller, statistic or webhook
    notices. Ctrl-C ends it.
    """
    wanted = ReplayRequest(last=last, tolerance=tolerance, max_seconds=timeout)
    with connected(home) as client:
        report = _follow(client, engine_of(engine), wanted, as_json)
    print_json(report) if as_json else _print(report)
    if not report.passed:
        raise typer.Exit(1)


def _follow(client: Client, engine: str, wanted: ReplayRequest, as_json: bool) -> ReplayReport:
    with TerminalSteps(quiet=as_json) as steps:
        for news in client.replay(engine, last=wanted.last, tolerance=wanted.tolerance, max_seconds=wanted.max_seconds):
            if isinstance(news, ReplayReport):
                return news
            steps.update(engine, f"{engine}: {news.done} of {news.of} jobs are replayed", news.done, news.of)
    raise Unavailable("The replay ended without a report")


def _print(report: ReplayReport) -> None:
    for example in report.examples:
        _print_example(example)
    print_table(_COLUMNS, [_row("active", report.then), _row("trial", report.now)])
    counts = {
        "the same": report.same,
        "with another output": report.outputs_differ,
        "newly failed": report.newly_failed,
        "newly succeeded": report.newly_succeeded,
    }
    said = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    say(f"{report.replayed} of {report.wanted} jobs replayed: {said or 'nothing to compare'}.")
    if report.stopped:
        say(f"{report.stopped}.", "yellow")
    say(*(("Nothing differs.", "green") if report.passed else ("The versions differ, or not all was replayed.", "red")))


def _row(which: str, side: Side) -> tuple[str, ...]:
    failed = ", ".join(f"{number} {code}" for code, number in sorted(side.errors.items())) or "0"
    times = (side.predict_seconds.p50, side.predict_seconds.p95)
    return (
        f"{side.version or '-'} ({which})",
        str(side.succeeded),
        failed,
        *("-" if seconds is None else f"{1_000 * seconds:.1f} ms" for seconds in times),
    )


def _print_example(example: Example) -> None:
    how = f"{example.then} → {example.now}" if example.then != example.now else f"{example.now}, with another output"
    say(Text.assemble((example.job or "a job of another tenant", "bold"), f": {how}"))
    for difference in example.differences:
        say(f"  {difference.path or 'output'}")
        if difference.then is not None:
            say(f"    - {difference.then}", "red")
        if difference.now is not None:
            say(f"    + {difference.now}", "green")
    say("")
