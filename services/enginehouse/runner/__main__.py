"""`python -m enginehouse.runner`: serves one engine until SIGTERM, then ends or hands back what it has in hand."""

import asyncio
import signal
import sys

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.runner.app import Runner, create_runner
from enginehouse.runner.settings import RunnerSettings, load_settings
from enginehouse.serving import Server, configure_logs, run

_log = structlog.get_logger(__name__)
_CLOSE_SECONDS = 2


async def serve(settings: RunnerSettings) -> None:
    """Run until the first SIGTERM or SIGINT; a second one hands back at once what still runs."""
    runner = create_runner(settings)
    server = Server(runner.app, settings.delivery_host, settings.delivery_port, close_seconds=_CLOSE_SECONDS)
    told = _signals()
    serving = asyncio.create_task(server.serve())
    starting = asyncio.create_task(runner.start())
    stop = asyncio.create_task(told.get())
    try:
        await asyncio.wait({serving, stop, starting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not (serving.done() or stop.done()):
            starting.result()
            await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        await _drain(runner, told)
    finally:
        starting.cancel()
        stop.cancel()
        server.should_exit = True
        await serving
        await runner.stop()
        _log.info("The runner has stopped", action="runner_stopped")


def _signals() -> asyncio.Queue[None]:
    told: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.put_nowait, None)
    return told


async def _drain(runner: Runner, told: asyncio.Queue[None]) -> None:
    draining = asyncio.create_task(runner.drain())
    again = asyncio.create_task(told.get())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        await runner.hand_back()
    draining.cancel()
    again.cancel()


def main() -> int:
    """Entry point; 2 when the settings will not do."""
    try:
        settings = load_settings()
        configure_logs(settings.log_level, as_json=settings.log_json)
        run(serve(settings))
    except EnginehouseError as error:
        sys.stderr.write(f"{error} ({error.advice})\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
