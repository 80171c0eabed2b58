"""Register the subcommands of `enginehouse`."""

from importlib.metadata import version
from typing import Annotated

import typer

from enginehouse.cli import author, broadcasts, demo, deploy, logs, render, stack, there
from enginehouse.cli.audit import audit
from enginehouse.cli.cluster import cluster
from enginehouse.cli.commands import Commands
from enginehouse.cli.console import say
from enginehouse.cli.dead_letters import dead_letters
from enginehouse.cli.engines import engines
from enginehouse.cli.environments import environments
from enginehouse.cli.failures import EXIT_STATUSES
from enginehouse.cli.jobs import SUBMIT_EXAMPLES, jobs, submit
from enginehouse.cli.replay import EXAMPLES as REPLAY_EXAMPLES
from enginehouse.cli.replay import replay
from enginehouse.cli.secret import secret
from enginehouse.cli.tenant import tenant

# Plain help is wrapped between words at any width; tables with frames are not.
app = typer.Typer(
    name="enginehouse",
    cls=Commands,
    epilog=EXIT_STATUSES,
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"enginehouse {version('enginehouse')}")
        raise typer.Exit


@app.callback()
def callback(
    wanted: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Many clients' inference engines behind one API."""


app.command()(stack.setup)
app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
app.command()(demo.demo)

app.command(epilog=SUBMIT_EXAMPLES)(submit)
app.add_typer(jobs, name="jobs")
app.add_typer(dead_letters, name="dead-letters")
engines.command()(author.new)
engines.command("test")(author.try_out)
engines.command()(deploy.deploy)
engines.command("add", hidden=True, help="Another name of deploy.")(deploy.deploy)
engines.command(epilog=render.ENGINE_EXAMPLES)(render.render)
engines.command()(deploy.promote)
engines.command()(deploy.rollback)
engines.command()(there.diff)
engines.command(epilog=REPLAY_EXAMPLES)(replay)
engines.command()(deploy.rotate)
engines.command()(deploy.remove)
engines.command()(logs.logs)
engines.command()(broadcasts.info)
engines.command()(broadcasts.update)
engines.add_typer(secret, name="secret")
app.add_typer(engines, name="engines")
tenant.command("render", epilog=render.TENANT_EXAMPLES)(render.render_tenant)
app.add_typer(tenant, name="tenant")
app.add_typer(audit, name="audit")
app.add_typer(environments, name="environments")
app.add_typer(cluster, name="cluster")
