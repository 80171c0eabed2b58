"""Run a command so that Ctrl-C, SIGTERM or a closed terminal ends it cleanly, and a second signal ends it at once."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

from enginehouse.cli.failures import INTERRUPTED

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, is_service: bool = False) -> T:
    """Run to the end and return the result, or until a signal has stopped everything.

    A service runs until it is told to stop: to end with SIGTERM is a success of it, and an interruption of all others.
    """
    signals: list[int] = []
    try:
        return asyncio.run(_with_signals(main, signals))
    except asyncio.CancelledError:
        is_told = is_service and signals[:1] == [signal.SIGTERM]
        raise typer.Exit(0 if is_told else INTERRUPTED) from None


async def _with_signals(main: Coroutine[Any, Any, T], signals: list[int]) -> T:
    """Await `main` and note the signals that come. The first one cancels it."""
    task = asyncio.create_task(main)

    def stop(number: int) -> None:
        signals.append(number)
        if len(signals) == 1:
            task.cancel()
        else:
            # The guard ends every process that is still running.
            os._exit(INTERRUPTED)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    return await task
