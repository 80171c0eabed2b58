"""The arguments and options that several commands share, and what the shell completes for them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from enginehouse.cli.homes import existing_home
from enginehouse.client import Client
from enginehouse.client.retries import RetryPlan
from enginehouse.contracts.errors import EnginehouseError

_PATIENCE_SECONDS = 0.5
_COMPLETED_JOBS = 50
_COMPLETED_ENGINES = 200
"""One page, so that they come within the patience."""


def _ask(context: typer.Context, question: Callable[[Client], Iterable[str]], incomplete: str) -> list[str]:
    """Return the answers that continue `incomplete`. Where no API answers at once, the shell completes nothing."""
    try:
        with Client(home=_home(context), timeout_seconds=_PATIENCE_SECONDS, retries=RetryPlan(times=0)) as client:
            return [answer for answer in question(client) if answer.startswith(incomplete)]
    except Exception:
        # Whatever is wrong, the command itself will say it. A message would end up in the line that is being typed.
        return []


def _engines(context: typer.Context, incomplete: str) -> list[str]:
    return _ask(context, lambda client: [engine.id for engine in client.engines(limit=_COMPLETED_ENGINES)], incomplete)


def _jobs(context: typer.Context, incomplete: str) -> list[str]:
    return _ask(context, lambda client: [job.id for job in client.jobs(limit=_COMPLETED_JOBS)], incomplete)


def _letters(context: typer.Context, incomplete: str) -> list[str]:
    return _ask(
        context, lambda client: [letter.id for letter in client.dead_letters(limit=_COMPLETED_JOBS)], incomplete
    )


def _deployed(context: typer.Context, incomplete: str) -> list[str]:
    try:
        engines = existing_home(_home(context)).engines
    except EnginehouseError:
        return []
    return sorted(path.name for path in engines.glob(f"{incomplete}*") if path.is_dir())


def _home(context: typer.Context) -> Path | None:
    home: Path | None = context.params.get("home")
    return home


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
EngineArgument = Annotated[
    str,
    typer.Argument(
        metavar="ENGINE",
        help="NAME (your own engine, or a shared one if you have none of that name) or TENANT--NAME; with @trial, its "
        "version on trial.",
        show_default=False,
        autocompletion=_engines,
    ),
]
DefaultEngineArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="ENGINE",
        help="NAME (your own engine, or a shared one if you have none of that name) or TENANT--NAME.",
        show_default="your tenant's default engine, 'standard' unless set",
        autocompletion=_engines,
    ),
]
DeployedArgument = Annotated[
    str,
    typer.Argument(
        metavar="ENGINE",
        help="NAME (yours, or a shared one if you have none of that name) or TENANT--NAME.",
        show_default=False,
        autocompletion=_deployed,
    ),
]
EngineWithLogsArgument = Annotated[
    str,
    typer.Argument(
        metavar="ENGINE",
        help="NAME (yours, or a shared one if you have none of that name) or TENANT--NAME; with @trial, its version on trial.",
        show_default=False,
        autocompletion=_deployed,
    ),
]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False, autocompletion=_jobs)
]
LetterArgument = Annotated[
    str,
    typer.Argument(
        metavar="LETTER",
        help="Id of the dead letter, as listed. It is the job's id.",
        show_default=False,
        autocompletion=_letters,
    ),
]
