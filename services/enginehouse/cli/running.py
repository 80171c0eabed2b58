"""Run a command so that Ctrl-C, SIGTERM or a closed terminal ends it cleanly, and a second signal ends it at once."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

from enginehouse.cli.failures import INTERRUPTED

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end and return the result, or until a signal has stopped everything."""
    try:
        return asyncio.run(_with_signals(main))
    except asyncio.CancelledError:
        raise typer.Exit(INTERRUPTED) from None


async def _with_signals(main: Coroutine[Any, Any, T]) -> T:
    task = asyncio.create_task(main)
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            task.cancel()
        else:
            # The guard ends every process that is still running.
            os._exit(INTERRUPTED)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return await task
