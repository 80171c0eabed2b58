"""`enginehouse setup`, `up`, `down`, `status`: run the system as processes on this machine."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from enginehouse.cli.console import TerminalSteps, err, follow_logs, harmless, note, print_json, say
from enginehouse.cli.homes import HomeOption, NewHomeOption, existing_home, home_to_start
from enginehouse.cli.options import JsonOption
from enginehouse.cli.running import run
from enginehouse.cli.tables import Column, Fit, print_table
from enginehouse.cli.units import span
from enginehouse.contracts.names import PLATFORM_TENANT
from enginehouse.local import checkout
from enginehouse.local.acquire import get_daprd
from enginehouse.local.containers.hardening import Sandbox
from enginehouse.local.guard import Guard
from enginehouse.local.health import Prober, listens
from enginehouse.local.home import Home
from enginehouse.local.redis_server import external, find_server
from enginehouse.local.running import RunOptions, run_stack
from enginehouse.local.stack import Stack
from enginehouse.logs import configure_logs
from enginehouse.supply.decide import Supply

_STOP_SECONDS = 60

_COLUMNS = (
    Column("name", fit=Fit.MIDDLE),
    Column("kind", worth=2),
    Column("pid", worth=1, right=True),
    Column("port", worth=3, right=True),
    Column("health"),
    Column("restarts", worth=5, right=True),
    Column("uptime", worth=4, right=True),
)

EnginesOption = Annotated[
    str,
    typer.Option(
        metavar="NAMES", help="Engines that come with the system to deploy: all, none, or names separated by commas."
    ),
]

ContainersOption = Annotated[
    bool,
    typer.Option("--containers", help="Run engines in hardened containers of this machine's Docker Engine."),
]

SandboxOption = Annotated[
    Sandbox | None,
    typer.Option("--sandbox", help="With --containers: run them in gVisor, whose kernel stands before the host's."),
]


def setup(as_json: JsonOption = False) -> None:
    """Get what the system needs to run on this machine: find, download or build daprd, and look for Redis."""

    async def get() -> None:
        guard = Guard()
        try:
            with TerminalSteps(quiet=as_json) as steps:
                daprd = await get_daprd(guard, steps)
                address = external()
                redis = f"{address.host}:{address.port}" if address else str(find_server())
                steps.finish("redis", f"Redis: {redis}")
        finally:
            guard.close()
        if as_json:
            print_json({"daprd": str(daprd), "redis": redis})

    run(get())


def up(
    home: NewHomeOption = None,
    port: Annotated[int, typer.Option(metavar="NUMBER", help="Port of the API on 127.0.0.1.")] = 8080,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when everything is up. 'enginehouse down' stops it.")
    ] = False,
    engines: EnginesOption = "all",
    containers: ContainersOption = False,
    sandbox: SandboxOption = None,
    logs: Annotated[bool, typer.Option(help="Print the logs of all processes.")] = True,
) -> None:
    """Start everything and run until Ctrl-C or 'enginehouse down'. Engines start and stop as their bundles appear in and leave the home."""
    check_sandbox(containers, sandbox)
    place = home_to_start(home)
    if detach:
        _detach(place, port, engines, containers, sandbox)
        return
    configure_logs("info", as_json=False, to="stderr")
    options = RunOptions(
        port=port, platform_engines=parse_engine_names(engines), in_containers=containers, sandbox=sandbox
    )
    steps = TerminalSteps()

    async def stay(stack: Stack) -> None:
        steps.close()
        print_ready(place, stack.url)
        note("Ctrl-C stops everything.", "")
        if logs:
            await follow_logs(place.logs)
        await asyncio.Event().wait()

    with steps:
        run(run_stack(place, options, steps, stay), is_service=True)


def check_sandbox(containers: bool, sandbox: Sandbox | None) -> None:
    """Raise BadParameter if a sandbox is asked for where engines are processes."""
    if sandbox and not containers:
        raise typer.BadParameter(f"--sandbox {sandbox} is for engines in containers: add --containers")


def parse_engine_names(text: str) -> list[str] | None:
    """Return the engine names in `--engines`. None: all. Raise BadParameter for one that does not come with the system."""
    if text in ("all", "none"):
        return None if text == "all" else []
    names = [name.strip().removeprefix(f"{PLATFORM_TENANT}--") for name in text.split(",")]
    known = [spec.name for spec in checkout.platform_engines().values()]
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"--engines: {unknown[0]!r} is none of {', '.join(known)}; or write 'all' or 'none'")
    return names


def print_ready(home: Home, url: str) -> None:
    """Print the URL of the API, the place of the key, and engines with problems."""
    places = f"{url}   docs: {url}/docs   key: {home.local_json}"
    say(Text.assemble(("Ready: ", "bold green"), places))
    state = home.read_state()
    for engine, entry in state.get("engines", {}).items():
        if entry["problem"]:
            note(f"{engine}: {entry['problem']}", "red")
    say(_how_engines_run(state), "dim")


def _how_engines_run(state: dict[str, Any]) -> str:
    if state.get("containers"):
        where = "hardened containers in gVisor" if state.get("sandbox") == Sandbox.GVISOR else "hardened containers"
        return f"Engines run in {where}: docs/containers.md says what these stop."
    if why := state.get("unconfined", "a former version has started them"):
        return (
            f"Engines run as processes of your own user, with a scrubbed environment and limits: {why}. "
            "This mode does not contain hostile code."
        )
    return (
        "Engines run as processes, each as a user of its own that sees its own files only. They share the kernel and the "
        "network of this machine: this mode does not contain hostile code."
    )


def _detach(home: Home, port: int, engines: str, containers: bool, sandbox: Sandbox | None) -> None:
    log = home.logs / "enginehouse.log"
    start = log.stat().st_size if log.exists() else 0
    command = [sys.executable, "-m", "enginehouse.cli.main", "up", "--home", str(home.path), "--port", str(port)]
    command += ["--containers"] if containers else []
    command += ["--sandbox", sandbox] if sandbox else []
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*command, "--engines", engines, "--no-logs"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            state = home.read_state()
            if state.get("supervisor") == process.pid and state.get("ready"):
                print_ready(home, state["url"])
                return
            start = _echo(log, start)
            time.sleep(0.1)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    _echo(log, start)
    raise typer.Exit(1)


def _echo(log: Path, start: int) -> int:
    with log.open("rb") as file:
        file.seek(start)
        text = file.read()
    err.print(harmless(text.decode(errors="replace")), end="", soft_wrap=True)
    return start + len(text)


def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop everything that runs for this home, and wait until it has stopped."""
    place = existing_home(home)
    pid = place.read_state().get("supervisor")
    if not place.is_running() or not pid:
        print_json({"stopped": False}) if as_json else say(f"Nothing is running in {place.path}.")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    with err.status("stopping everything"):
        while place.is_running():
            if time.monotonic() > deadline:
                # Its guard ends the processes that it leaves behind.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
    print_json({"stopped": True}) if as_json else say("Everything is stopped.")


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show every process of this home and its health. Exits with 1 if something is not healthy."""
    place = existing_home(home)
    state = place.read_state() if place.is_running() else {}
    if not state:
        print_json({"running": False}) if as_json else say(f"Nothing is running in {place.path}.")
        raise typer.Exit(1)
    processes = asyncio.run(_probe(state["processes"]))
    policy_mistake = Supply(place.supply).mistake()
    if as_json:
        print_json({"running": True, **state, "processes": processes, "policy_mistake": policy_mistake})
    else:
        _show(state, processes)
        if policy_mistake:
            say(f"No engine starts, because the policy has a mistake. {policy_mistake}", "red")
    well = all(process["healthy"] for process in processes) and not state["refused"] and not policy_mistake
    raise typer.Exit(0 if well and all(entry["state"] == "running" for entry in state["engines"].values()) else 1)


async def _probe(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask each process now, because the written state may be out of date."""
    prober = Prober()

    async def healthy(process: dict[str, Any]) -> bool:
        if process["pid"] is None:
            return False
        return await (prober.ok(process["health_url"]) if process["health_url"] else listens(process["port"]))

    answers = await asyncio.gather(*(healthy(process) for process in processes))
    await prober.close()
    now = time.time()
    return [
        {**process, "healthy": well, "uptime_seconds": round(now - process["started_at"], 1) if process["pid"] else 0}
        for process, well in zip(processes, answers, strict=True)
    ]


def _show(state: dict[str, Any], processes: list[dict[str, Any]]) -> None:
    rows = [
        (
            process["name"],
            process["kind"],
            str(process["pid"] or "-"),
            str(process["port"]),
            _health(process),
            str(process["restarts"]),
            span(process["uptime_seconds"]),
        )
        for process in processes
    ]
    print_table(_COLUMNS, rows)
    say(f"\nAPI: {state['url']}   gRPC: {state.get('grpc') or '-'}" + ("" if state["ready"] else "   (still starting)"))
    if state.get("registry"):
        say(f"Registry: {state['registry']}")
    say(_how_engines_run(state))
    for engine, entry in state["engines"].items():
        if entry["state"] != "running":
            reason = entry["problem"] or entry["doing"] or ""
            say(f"{engine}: {entry['state']}. {reason}", "red")
    for engine, entry in state.get("trials", {}).items():
        reason = entry["problem"] or entry["doing"] or ""
        say(f"{engine}, on trial: {entry['state']}. {reason}", "red" if reason else "")
    for name, waits_for in state.get("removing", {}).items():
        say(f"{name} is being removed: {waits_for}.")
    if problem := state.get("broker"):
        say(problem, "yellow")
    for owner, problem in state["refused"].items():
        say(f"{owner}: not given to the gateway. {problem}", "red")


def _health(process: dict[str, Any]) -> Text:
    if process["healthy"]:
        return Text("well", "green")
    return Text("not well" if process["state"] == "running" else process["state"], "red")
