"""Whether the gateway has stopped this engine (it is quarantined), read from the engine's own state every second."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from pydantic import ValidationError

from enginehouse.background import Background
from enginehouse.contracts.engine import Control as ControlMessage
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import CONTROL_KEY, results_component
from enginehouse.runner.pace import Pace
from enginehouse.sidecar.base import Sidecar, StateItem

_log = structlog.get_logger(__name__)


class Control:
    """Reads `control`, and tells when it changes."""

    def __init__(self, sidecar: Sidecar, engine_id: str, told: Callable[[bool], None], pace: Pace) -> None:
        self._sidecar = sidecar
        self._store = results_component(engine_id)
        self._told = told
        self._poll_seconds = pace.control_poll_seconds
        self._background = Background()
        self.stopped: bool | None = None
        """None until it was read once: a runner that starts must not take jobs of an engine that is quarantined."""

    def start(self) -> None:
        """Begin to read."""
        self._background.keep("control", self._run)

    async def stop(self) -> None:
        """Read no more."""
        await self._background.close()

    async def _run(self) -> None:
        while True:
            # A store that does not answer changes nothing: what was said last holds.
            with contextlib.suppress(EnginehouseError):
                self._take(_says_stop(await self._sidecar.read(self._store, CONTROL_KEY)))
            await asyncio.sleep(self._poll_seconds)

    def _take(self, stopped: bool) -> None:
        if stopped == (self.stopped or False):
            self.stopped = stopped
            return
        self.stopped = stopped
        _log.warning(
            "The gateway has stopped this engine: nothing more is begun" if stopped else "The engine goes on",
            action="engine_stopped" if stopped else "engine_resumed",
        )
        self._told(stopped)


def _says_stop(item: StateItem | None) -> bool:
    if item is None:
        return False
    try:
        return ControlMessage.model_validate_json(item.value).stopped
    except ValidationError:
        return False
