"""`enginehouse demo`: start everything, run real jobs through the API, show results and refused calls, stop."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from enginehouse.cli.console import TerminalSteps, note, out, print_json, say
from enginehouse.cli.demonstration.examples import engines_of, examples
from enginehouse.cli.demonstration.play import play, raise_if_missing, tenant_keys
from enginehouse.cli.homes import NewHomeOption, home_to_start
from enginehouse.cli.options import JsonOption
from enginehouse.cli.running import run
from enginehouse.cli.stack import ContainersOption, SandboxOption, check_sandbox
from enginehouse.local.containers.hardening import Sandbox
from enginehouse.local.home import Home
from enginehouse.local.ports import PortPool
from enginehouse.local.running import RunOptions, deploy_platform_engines, run_stack
from enginehouse.local.stack import Stack
from enginehouse.logs import configure_logs


def demo(
    home: NewHomeOption = None,
    port: Annotated[
        int, typer.Option(metavar="NUMBER", help="Port of the API on 127.0.0.1. Default: any free port.")
    ] = 0,
    containers: ContainersOption = False,
    sandbox: SandboxOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start everything, run real jobs, show them and stop. If a stack runs in the home, use that one.

    An engine that does not come up does not end the demo: the others are shown, then what is missing and why, and the
    exit status is 1.
    """
    check_sandbox(containers, sandbox)
    # What the supervisor does is not what is to be seen.
    configure_logs("warning", as_json=False, to="stderr")
    place = home_to_start(home)
    run(
        _play_on_running_stack(place, as_json)
        if place.is_running()
        else _start_and_play(place, port, containers, sandbox, as_json)
    )


def _engine_names() -> set[str]:
    return {engine.partition("--")[2] for engine in engines_of(examples())}


async def _play(home: Home, url: str, show: Callable[[Text], None], as_json: bool) -> None:
    played = await play(home, url, (lambda line: None) if as_json else show, out.width)
    if as_json:
        print_json(played)
    raise_if_missing(played["missing"])


async def _play_on_running_stack(home: Home, as_json: bool) -> None:
    if not as_json:
        note(f"Using the stack that runs in {home.path}.", "")
    deploy_platform_engines(home, _engine_names())
    await _play(home, home.read_local()["url"], say, as_json)


async def _start_and_play(home: Home, port: int, containers: bool, sandbox: Sandbox | None, as_json: bool) -> None:
    began = time.monotonic()
    pool = PortPool()
    # Jobs are shown as soon as their engine is up; slow engines do not hold up the others.
    options = RunOptions(
        port or pool.take(), _engine_names(), wait_for_engines=False, in_containers=containers, sandbox=sandbox
    )

    with TerminalSteps(quiet=as_json) as steps:

        async def work(stack: Stack) -> None:
            async def report_when_up() -> None:
                assert stack.engines
                await stack.engines.settled()
                running = [engine.state == "running" for engine in stack.engines.active.values()]
                up = "everything is" if all(running) else f"{sum(running)} of {len(running)} engines are"
                steps.finish("up", f"{up} up after {time.monotonic() - began:.1f} s", ok=all(running))

            reporting = asyncio.create_task(report_when_up())
            try:
                await _play(home, stack.url, steps.print, as_json)
            finally:
                reporting.cancel()

        # Made before the gateway starts, so that it knows the keys from the first call on.
        tenant_keys(home)
        await run_stack(home, options, steps, work)
