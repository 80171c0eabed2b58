"""Moves an engine from one state to another: for all gateways and restarts, its runners and its owner alike."""

import asyncio

import structlog

from enginehouse.contracts.engine import Control, EngineState
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.events import ENGINE_STATE_EVENTS
from enginehouse.contracts.names import CONTROL_KEY, results_component
from enginehouse.gateway.engines.catalogue import Engines, KnownEngine
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.store_budget import in_time
from enginehouse.gateway.tenants.tenants import Tenants
from enginehouse.sidecar.base import Sidecar

log = structlog.get_logger()

STOPPED = Control(stopped=True).model_dump_json().encode()
"""What an engine's runners read while they may take no jobs."""
_GO_ON = Control(stopped=False).model_dump_json().encode()
_TELL_SECONDS = 3.0
"""For the control of one engine to be written by the sweep, so that a store that hangs keeps nobody else waiting."""


class States:
    """Decides whether engines get jobs, and lets everybody know who must."""

    def __init__(self, sidecar: Sidecar, engines: Engines, notifier: Notifier, tenants: Tenants) -> None:
        self._sidecar = sidecar
        self._engines = engines
        self._notifier = notifier
        self._tenants = tenants
        self._told: dict[str, bytes | None] = {}
        """What this gateway has written last for the runners of each engine; None if that failed."""

    async def move(
        self, engine: KnownEngine, state: EngineState, reason: str | None = None, probe_at: float | None = None
    ) -> None:
        """Put an engine into `state`. Its owner is told only if that is news."""
        news = engine.state != state
        await self._engines.set_state(engine, state, reason, probe_at)
        if state == EngineState.QUARANTINED:
            self._told[engine.id] = None
        if news:
            told = {"engine": engine.id, "reason": reason}
            await self._notifier.tell(engine.tenant, ENGINE_STATE_EVENTS[state], told)
            owner = self._tenants.get(engine.tenant)
            if owner and owner.webhook:
                await self._notifier.tell_by_webhook(owner.name, ENGINE_STATE_EVENTS[state], told, owner.webhook)
        if state == EngineState.QUARANTINED:
            await self._tell_runners(engine, STOPPED)

    async def let_go_on(self, engine: KnownEngine) -> None:
        """Tell an engine's runners that they may take jobs again."""
        await self._tell_runners(engine, _GO_ON)

    async def catch_up(self) -> None:
        """Tell the runners what they may not know: a write failed, or it was decided elsewhere or before this start."""
        behind = []
        for engine in self._engines:
            if engine.state == EngineState.RETIRED:
                # What comes back under its name may come with a new store.
                self._told.pop(engine.id, None)
            elif self._told.get(engine.id, _GO_ON) != self._wanted(engine):
                behind.append(engine)
        await asyncio.gather(*(self._catch_up(engine) for engine in behind))

    async def _catch_up(self, engine: KnownEngine) -> None:
        try:
            async with in_time(_TELL_SECONDS):
                await self._tell_runners(engine, self._wanted(engine))
        except EnginehouseError as error:
            log.warning(
                f"The runners of {engine.id} do not know yet that it is {engine.state}: {error}",
                action="control_waits",
                engine=engine.id,
            )

    @staticmethod
    def _wanted(engine: KnownEngine) -> bytes:
        return STOPPED if engine.state == EngineState.QUARANTINED else _GO_ON

    async def _tell_runners(self, engine: KnownEngine, control: bytes) -> None:
        self._told[engine.id] = None
        await self._sidecar.put(results_component(engine.id), CONTROL_KEY, control)
        self._told[engine.id] = control
