"""`enginehouse submit` and `enginehouse jobs`: send jobs, show them, end them."""

import json
from typing import Annotated

import typer
from rich.text import Text

from enginehouse.cli.commands import Lists
from enginehouse.cli.connection import connected
from enginehouse.cli.console import note, print_exactly, print_json, say
from enginehouse.cli.homes import HomeOption
from enginehouse.cli.inputs import read_input
from enginehouse.cli.options import DefaultEngineArgument, JobArgument, JsonOption
from enginehouse.cli.tables import Cell, Column, Fit, print_fields, print_table
from enginehouse.cli.units import age, duration
from enginehouse.cli.waiting import goes_on, wait_in_sight
from enginehouse.client import Handle, JobFailed, JobNews, SubmitOptions
from enginehouse.contracts.job import Job, Status

SUBMIT_EXAMPLES = """Examples:

enginehouse submit standard --input '{"text": "I love it"}' --wait

enginehouse submit acme--ocr --input-file image=page.png --wait

cat input.json | enginehouse submit standard --input - --json"""

JOBS_EXAMPLES = """Examples:

enginehouse jobs --status failed --limit 5

enginehouse jobs show 01890a5d-ac96-7b2a-8c4e-0123456789ab

enginehouse jobs follow 01890a5d-ac96-7b2a-8c4e-0123456789ab"""

jobs = typer.Typer(cls=Lists, epilog=JOBS_EXAMPLES)

_STYLES = {Status.SUCCEEDED: "green", Status.QUEUED: "cyan", Status.RUNNING: "yellow"}


_STATUS_HELP = f"Only jobs with this status: {', '.join(Status)}."
_COLUMNS = (
    Column("id"),
    Column("engine", fit=Fit.MIDDLE),
    Column("status"),
    Column("attempts", worth=2),
    Column("queued for", worth=1, right=True),
    Column("predicted in", worth=3, right=True),
    Column("age", worth=4, right=True),
)


def submit(
    engine: DefaultEngineArgument = None,
    input_text: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="JSON", help="JSON, @FILE with JSON, or - for standard input."),
    ] = None,
    input_file: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=PATH", help="A file's content as base64 in that field. Repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the job to end, and print its output.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="With --wait: longest wait.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, metavar="NUMBER", help="9 first, 0 last.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job to ENGINE, or to your default engine. Prints its id, or with --wait its output. Exits with 1 if the job fails."""
    value = read_input(input_text, input_file or [])
    options: SubmitOptions = {} if priority is None else {"priority": priority}
    with connected(home) as client:
        handle = client.submit(engine, value, **options)
        if not wait:
            _print_handle(handle, as_json)
            note(f"Accepted. 'enginehouse jobs show {handle.id}' shows it.")
            return
        job = wait_in_sight(client, handle, timeout, as_json)
        if as_json:
            print_json(job)
        if job.status is not Status.SUCCEEDED:
            raise JobFailed(job)
        if not as_json:
            print_json(client.output(job))


@jobs.callback()
def callback() -> None:
    """List your jobs, or show, follow, cancel or retry one. Without a command: list."""


@jobs.command("list")
def list_jobs(
    engine: Annotated[str | None, typer.Option(metavar="ENGINE", help="Only jobs of this engine.")] = None,
    status: Annotated[Status | None, typer.Option(metavar="STATUS", help=_STATUS_HELP)] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Most jobs to list.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your jobs, newest first."""
    with connected(home) as client:
        found = list(client.jobs(engine=engine, status=status, limit=limit))
    if as_json:
        print_json([job.model_dump(mode="json") for job in found])
        return
    rows = [
        (
            job.id,
            job.engine,
            _status(job),
            str(job.attempts),
            duration(job.metrics.queue_time),
            duration(job.metrics.predict_time),
            age(job.created_at),
        )
        for job in found
    ]
    print_table(_COLUMNS, rows) if rows else say("No jobs.")


@jobs.command()
def show(job_id: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one job: its status, the reason, and its output."""
    with connected(home) as client:
        _show(client.job(job_id), as_json)


@jobs.command()
def cancel(job_id: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Cancel a job. A queued job never runs; the call of a running job is closed."""
    with connected(home) as client:
        _show(client.cancel(job_id), as_json)


@jobs.command()
def retry(job_id: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Submit the input of an ended job again as a new job. Prints the new job's id."""
    with connected(home) as client:
        handle = client.retry(job_id)
        _print_handle(handle, as_json)


@jobs.command()
def follow(job_id: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print the events of a job as they come, and its output at the end. Exits with 1 if the job fails.

    With --json: one document per line. Ctrl-C stops following; the job continues.
    """
    job = None
    with connected(home) as client:
        try:
            for news in client.events(job_id):
                if news.kind == "completed":
                    job = Job.model_validate(news.data)
                _print_news(news, as_json)
        except KeyboardInterrupt:
            raise goes_on(job_id) from None
        if job and job.status is not Status.SUCCEEDED:
            raise JobFailed(job)
        if job and not as_json:
            print_json(client.output(job))


def _print_news(news: JobNews, as_json: bool) -> None:
    if as_json:
        print_json(news, indent=None)
        return
    value = news.data
    if news.kind == "completed":
        value = value["status"]
    elif news.kind == "start":
        value = f"attempt {value['attempt']}"
    text = value if isinstance(value, str) else json.dumps(value)
    say(Text.assemble((f"{news.kind:<10}", "dim"), text))


def _print_handle(handle: Handle, as_json: bool) -> None:
    print_json({"id": handle.id, "engine": handle.engine}) if as_json else print_exactly(handle.id)


def _show(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    fields: dict[str, Cell] = {
        "id": job.id,
        "engine": job.engine,
        "version": job.version or "-",
        **({"image": job.image} if job.image else {}),
        "status": _status(job),
    }
    fields |= {"attempts": str(job.attempts), "created": f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC"}
    fields |= {"queued for": duration(job.metrics.queue_time), "predicted in": duration(job.metrics.predict_time)}
    if job.status_detail:
        fields["waits because"] = Text(job.status_detail, "yellow")
    if job.error:
        fields["error"] = Text(f"{job.error.code}: {job.error.message}", "red")
    for name, other in (("retry of", job.retry_of), ("retried as", job.retried_as), ("output at", job.output_url)):
        if other:
            fields[name] = other
    print_fields(fields)
    if job.output is not None:
        print_json(job.output)


def _status(job: Job) -> Text:
    reason = f" ({job.status_reason})" if job.status_reason else ""
    return Text(f"{job.status}{reason}", style=_STYLES.get(job.status, "red"))
