"""The process of a runner: serves one engine until SIGTERM, then finishes or hands back the jobs it has in hand."""

import asyncio
import signal
import sys

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.logs import configure_logs
from enginehouse.runner.app import Runner, create_runner
from enginehouse.runner.settings import RunnerSettings, load_settings
from enginehouse.serving import Server, run

_log = structlog.get_logger(__name__)
_CLOSE_SECONDS = 2


async def serve(settings: RunnerSettings) -> None:
    """Run until the first SIGTERM or SIGINT. A second one hands back at once the jobs that still run."""
    runner = create_runner(settings)
    # Bound before any task starts, so that every log line of this process names the engine.
    structlog.contextvars.bind_contextvars(engine_id=runner.spec.id, tenant=runner.spec.tenant)
    servers = _servers(runner, settings)
    signals = _signals()
    serving = asyncio.create_task(_serve_all(servers))
    starting = asyncio.create_task(runner.start())
    stop = asyncio.create_task(signals.get())
    try:
        await asyncio.wait({serving, stop, starting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not (serving.done() or stop.done()):
            starting.result()
            await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        await _drain(runner, signals)
    finally:
        starting.cancel()
        stop.cancel()
        for server in servers:
            server.should_exit = True
        await serving
        await runner.stop()
        _log.info("The runner has stopped", action="runner_stopped")


def _servers(runner: Runner, settings: RunnerSettings) -> list[Server]:
    """Return the listener for the runner's own sidecar, and the one that shows its health to others, if it is wanted."""
    servers = [Server(runner.app, settings.delivery_host, settings.delivery_port, close_seconds=_CLOSE_SECONDS)]
    if settings.health_port is not None:
        shown = Server(runner.health_app, settings.health_host, settings.health_port, close_seconds=_CLOSE_SECONDS)
        servers.append(shown)
    return servers


async def _serve_all(servers: list[Server]) -> None:
    await asyncio.gather(*(server.serve() for server in servers))


def _signals() -> asyncio.Queue[None]:
    """Return a queue that gets an item for each SIGTERM or SIGINT."""
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, None)
    return signals


async def _drain(runner: Runner, signals: asyncio.Queue[None]) -> None:
    """Drain the runner, and hand back its jobs as soon as another signal comes."""
    draining = asyncio.create_task(runner.drain())
    again = asyncio.create_task(signals.get())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        await runner.hand_back()
    draining.cancel()
    again.cancel()


def main() -> int:
    """Run the runner; return 2 if its settings or its engine.yaml are unsafe or wrong."""
    try:
        settings = load_settings()
        configure_logs(settings.log_level, as_json=settings.log_json)
        run(serve(settings))
    except EnginehouseError as error:
        sys.stderr.write(f"{error} ({error.advice})\n")
        return 2
    return 0
