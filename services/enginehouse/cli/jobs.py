"""`enginehouse submit` and `enginehouse jobs`: send jobs, show them, end them."""

import json
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from enginehouse.cli.connection import clean, clean_lines, connected, print_table
from enginehouse.cli.console import err, out
from enginehouse.cli.homes import HomeOption
from enginehouse.cli.inputs import read_input
from enginehouse.cli.running import INTERRUPTED
from enginehouse.client import JobFailed, JobNews, SubmitOptions
from enginehouse.contracts.job import Job, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import DEFAULT_ENGINE

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobArgument = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]

SUBMIT_EXAMPLES = """Examples:

enginehouse submit standard --input '{"text": "I love it"}' --wait

enginehouse submit acme--ocr --input-file image=page.png --wait

cat input.json | enginehouse submit standard --input - --json"""

JOBS_EXAMPLES = """Examples:

enginehouse jobs --status failed --limit 5

enginehouse jobs show 01890a5d-ac96-7b2a-8c4e-0123456789ab

enginehouse jobs follow 01890a5d-ac96-7b2a-8c4e-0123456789ab"""

jobs = typer.Typer(invoke_without_command=True, epilog=JOBS_EXAMPLES)

_STYLES = {Status.SUCCEEDED: "green", Status.QUEUED: "cyan", Status.RUNNING: "yellow"}


def print_json(value: Any) -> None:
    """Print one JSON document exactly as it is, without colours or wrapping."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    typer.echo(json.dumps(value, indent=2))


def submit(
    engine: Annotated[
        str,
        typer.Argument(help="NAME (your own engine, or a shared one if you have none of that name) or TENANT--NAME."),
    ] = DEFAULT_ENGINE,
    input_text: Annotated[
        str | None, typer.Option("--input", "-i", help="JSON, @FILE with JSON, or - for standard input.")
    ] = None,
    input_file: Annotated[
        list[str] | None, typer.Option(help="FIELD=PATH: a file's content as base64 in that field. Repeatable.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the job to end, and print its output.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="With --wait: longest wait in seconds.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="9 first, 0 last.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job to ENGINE. Prints its id, or with --wait its output. Exits with 1 if the job fails."""
    value = read_input(input_text, input_file or [])
    options: SubmitOptions = {} if priority is None else {"priority": priority}
    with connected(home) as client:
        handle = client.submit(engine, value, **options)
        if not wait:
            print_json({"id": handle.id, "engine": handle.engine}) if as_json else typer.echo(handle.id)
            err.print(f"Accepted. 'enginehouse jobs show {handle.id}' shows it.", style="dim", soft_wrap=True)
            return
        job = handle.wait(timeout)
        if as_json:
            print_json(job)
        if job.status is not Status.SUCCEEDED:
            raise JobFailed(job)
        if not as_json:
            print_json(job.output)


@jobs.callback()
def list_jobs(
    context: typer.Context,
    engine: Annotated[str | None, typer.Option(help="Only jobs of this engine.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only jobs with this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your jobs, newest first. Or show, follow, cancel or retry one."""
    if context.invoked_subcommand:
        return
    with connected(home) as client:
        found = list(client.jobs(engine=engine, status=status, limit=limit))
    if as_json:
        print_json([job.model_dump(mode="json") for job in found])
        return
    table = Table("id", "engine", "status", "attempts", "queued for", "predicted in", "age", box=None)
    for job in found:
        waited, predicted = _seconds(job.metrics.queue_time), _seconds(job.metrics.predict_time)
        table.add_row(job.id, job.engine, _status(job), str(job.attempts), waited, predicted, age(job.created_at))
    print_table(table) if found else out.print("No jobs.")


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
        print_json({"id": handle.id, "engine": handle.engine}) if as_json else typer.echo(handle.id)


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
            err.print(
                f"The job goes on. 'enginehouse jobs follow {job_id}' follows it again.", style="dim", soft_wrap=True
            )
            raise typer.Exit(INTERRUPTED) from None
        if job and job.status is not Status.SUCCEEDED:
            raise JobFailed(job)
        if job and not as_json:
            print_json(client.output(job))


def _print_news(news: JobNews, as_json: bool) -> None:
    if as_json:
        typer.echo(news.model_dump_json())
        return
    value = news.data
    if news.kind == "completed":
        value = value["status"]
    elif news.kind == "start":
        value = f"attempt {value['attempt']}"
    text = value if isinstance(value, str) else json.dumps(value)
    out.print(Text.assemble((f"{clean(news.kind):<10}", "dim"), clean(text)), soft_wrap=True)


def _show(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    table = Table.grid(padding=(0, 2))
    fields: dict[str, str | Text] = {
        "id": job.id,
        "engine": job.engine,
        "version": job.version or "-",
        "status": _status(job),
    }
    fields |= {"attempts": str(job.attempts), "created": f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC"}
    fields |= {"queued for": _seconds(job.metrics.queue_time), "predicted in": _seconds(job.metrics.predict_time)}
    if job.status_detail:
        fields["waits because"] = Text(clean_lines(job.status_detail), style="yellow")
    if job.error:
        fields["error"] = Text(f"{job.error.code}: {clean(job.error.message)}", style="red")
    for name, other in (("retry of", job.retry_of), ("retried as", job.retried_as), ("output at", job.output_url)):
        if other:
            fields[name] = other
    for name, value in fields.items():
        table.add_row(Text(name, style="dim"), value)
    print_table(table)
    if job.output is not None:
        print_json(job.output)


def _status(job: Job) -> Text:
    reason = f" ({job.status_reason})" if job.status_reason else ""
    return Text(f"{job.status}{reason}", style=_STYLES.get(job.status, "red"))


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.1f} s"


def age(moment: datetime) -> str:
    """Return roughly how long ago a moment was."""
    seconds = (now() - moment).total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
