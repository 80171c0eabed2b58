"""`enginehouse demo`: start everything, run real jobs through the API, show results and refused calls, stop."""

import asyncio
import time
from typing import Annotated

import typer

from enginehouse.cli.connection import exit_on_error
from enginehouse.cli.console import TerminalSteps, out
from enginehouse.cli.demonstration.examples import engines_of, examples
from enginehouse.cli.demonstration.play import play, tenant_keys
from enginehouse.cli.homes import NewHomeOption, home_to_start
from enginehouse.cli.running import run
from enginehouse.local.home import Home
from enginehouse.local.ports import PortPool
from enginehouse.local.running import RunOptions, deploy_platform_engines, run_stack
from enginehouse.local.stack import Stack


def demo(
    home: NewHomeOption = None,
    port: Annotated[int, typer.Option(help="Port of the API on 127.0.0.1. Default: any free port.")] = 0,
) -> None:
    """Start everything, run real jobs, show them and stop. If a stack runs in the home, use that one.

    An engine that does not come up does not end the demo: the others are shown, then what is missing and why, and the
    exit status is 1.
    """
    with exit_on_error():
        place = home_to_start(home)
    run(_play_on_running_stack(place) if place.is_running() else _start_and_play(place, port))


def _engine_names() -> set[str]:
    return {engine.partition("--")[2] for engine in engines_of(examples())}


async def _play_on_running_stack(home: Home) -> None:
    out.print(f"Using the stack that runs in {home.path}.", soft_wrap=True)
    deploy_platform_engines(home, _engine_names())
    await play(home, home.read_local()["url"], out.print, out.width)


async def _start_and_play(home: Home, port: int) -> None:
    began = time.monotonic()
    pool = PortPool()
    # Jobs are shown as soon as their engine is up; slow engines do not hold up the others.
    options = RunOptions(port or pool.take(), _engine_names(), wait_for_engines=False)

    with TerminalSteps() as steps:

        async def work(stack: Stack) -> None:
            async def report_when_up() -> None:
                await stack.settled()
                running = [engine.state == "running" for engine in stack.engines.values()]
                up = "everything is" if all(running) else f"{sum(running)} of {len(running)} engines are"
                steps.finish("up", f"{up} up after {time.monotonic() - began:.1f} s", ok=all(running))

            reporting = asyncio.create_task(report_when_up())
            try:
                await play(home, stack.url, steps.print, out.width)
            finally:
                reporting.cancel()

        # Made before the gateway starts, so that it knows the keys from the first call on.
        tenant_keys(home)
        await run_stack(home, options, steps, work)
