"""Reads every second, in the engine's own state, whether the gateway has stopped the engine (it is quarantined)."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from pydantic import ValidationError

from enginehouse.background import Background
from enginehouse.contracts.engine import Control
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import CONTROL_KEY, results_component
from enginehouse.runner.pace import Pace
from enginehouse.sidecar.base import Sidecar, StateItem

_log = structlog.get_logger(__name__)


class ControlReader:
    """Reads the engine's `Control` message, and calls `on_change` when the engine is stopped or resumed."""

    def __init__(self, sidecar: Sidecar, engine_id: str, on_change: Callable[[bool], None], pace: Pace) -> None:
        self._sidecar = sidecar
        self._store = results_component(engine_id)
        self._on_change = on_change
        self._poll_seconds = pace.control_poll_seconds
        self._background = Background()
        self.stopped: bool | None = None
        """None until it was read once: a runner that starts must not take jobs of a quarantined engine."""

    def start(self) -> None:
        """Begin to read."""
        self._background.keep("control", self._run)

    async def stop(self) -> None:
        """Stop reading."""
        await self._background.close()

    async def _run(self) -> None:
        while True:
            # While the store does not answer, the last message read stays valid.
            with contextlib.suppress(EnginehouseError):
                self._take(_says_stop(await self._sidecar.read(self._store, CONTROL_KEY)))
            await asyncio.sleep(self._poll_seconds)

    def _take(self, stopped: bool) -> None:
        if stopped == (self.stopped or False):
            self.stopped = stopped
            return
        self.stopped = stopped
        if stopped:
            _log.warning("The gateway has stopped the engine: no more jobs are begun", action="engine_stopped")
        else:
            _log.warning("The gateway has resumed the engine", action="engine_resumed")
        self._on_change(stopped)


def _says_stop(item: StateItem | None) -> bool:
    if item is None:
        return False
    try:
        return Control.model_validate_json(item.value).stopped
    except ValidationError:
        return False
