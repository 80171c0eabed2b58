"""Moves an engine from one state to another: for all gateways and restarts, its runners and its owner alike."""

from enginehouse.contracts.events import ENGINE_STATE_EVENTS
from enginehouse.contracts.names import CONTROL_KEY, results_component
from enginehouse.gateway.engines import QUARANTINED, Engines, KnownEngine
from enginehouse.gateway.notify import Notifier
from enginehouse.gateway.tenants import Tenants
from enginehouse.sidecar.base import Sidecar

STOPPED = b'{"stopped":true}'
"""What an engine's runners read while they may take no jobs."""


class States:
    """Decides whether engines get jobs, and lets everybody know who must."""

    def __init__(self, sidecar: Sidecar, engines: Engines, notifier: Notifier, tenants: Tenants) -> None:
        self._sidecar = sidecar
        self._engines = engines
        self._notifier = notifier
        self._tenants = tenants

    async def move(
        self, engine: KnownEngine, state: str, reason: str | None = None, probe_at: float | None = None
    ) -> None:
        """Put an engine into `state`. Its owner is told only if that is news."""
        news = engine.state != state
        await self._engines.set_state(engine, state, reason, probe_at)
        if news:
            told = {"engine": engine.id, "reason": reason}
            await self._notifier.tell(engine.tenant, ENGINE_STATE_EVENTS[state], told)
            owner = self._tenants.get(engine.tenant)
            if owner and owner.webhook:
                await self._notifier.tell_by_webhook(owner.name, ENGINE_STATE_EVENTS[state], told, owner.webhook)
        if state == QUARANTINED:
            await self._tell_runners(engine, STOPPED)

    async def let_go_on(self, engine: KnownEngine) -> None:
        """Tell an engine's runners that they may take jobs again."""
        await self._tell_runners(engine, b'{"stopped":false}')

    async def _tell_runners(self, engine: KnownEngine, control: bytes) -> None:
        await self._sidecar.put(results_component(engine.id), CONTROL_KEY, control)
