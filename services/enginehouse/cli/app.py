"""Register the subcommands of `enginehouse`."""

import typer

from enginehouse.cli import demo, deploy, stack
from enginehouse.cli.dead_letters import dead_letters
from enginehouse.cli.engines import engines
from enginehouse.cli.jobs import SUBMIT_EXAMPLES, jobs, submit
from enginehouse.cli.tenant import tenant

app = typer.Typer(
    name="enginehouse",
    help="Many clients' inference engines behind one API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command()(stack.setup)
app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
app.command()(demo.demo)

app.command(epilog=SUBMIT_EXAMPLES)(submit)
app.add_typer(jobs, name="jobs")
app.add_typer(dead_letters, name="dead-letters")
engines.command()(deploy.deploy)
engines.command()(deploy.remove)
app.add_typer(engines, name="engines")
app.add_typer(tenant, name="tenant")
