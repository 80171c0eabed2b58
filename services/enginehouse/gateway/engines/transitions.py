"""Moves engines from one state to another, and informs the other gateways, the runners and the owner."""

import asyncio
import time
from collections.abc import Callable

import structlog

from enginehouse.audit.log import AuditLog
from enginehouse.contracts.engine import Control, EngineState
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.events import ENGINE_STATE_EVENTS
from enginehouse.contracts.names import CONTROL_KEY, results_component
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.store_budget import StoreBudget
from enginehouse.gateway.tenants.tenants import Tenants
from enginehouse.sidecar.base import Sidecar

log = structlog.get_logger()

STOP, GO_ON = Control(stopped=True), Control(stopped=False)
_PROBE_MARGIN_SECONDS = 0.05
"""Wakes the dispatcher a little late, so that it finds that the moment of the probe has come."""


class Transitions:
    """Changes the states of engines, which decide whether they get jobs."""

    def __init__(
        self,
        sidecar: Sidecar,
        catalogue: Catalogue,
        notifier: Notifier,
        tenants: Tenants,
        budget: StoreBudget,
        audit: AuditLog,
        *,
        wake: Callable[[str], None],
        on_change: Callable[[], None],
    ) -> None:
        """Call `wake` with an engine's id when it may have jobs again; the dispatcher then fills its window.

        Call `on_change` when a state has changed.
        """
        self._sidecar = sidecar
        self._catalogue = catalogue
        self._notifier = notifier
        self._tenants = tenants
        self._budget = budget
        self._audit = audit
        self._wake = wake
        self._on_change = on_change
        self._written: dict[str, Control | None] = {}
        """Last control message that this gateway wrote for each engine; None if the write failed."""

    async def move(
        self,
        engine: KnownEngine,
        state: EngineState,
        reason: str | None = None,
        probe_at: float | None = None,
        *,
        by_operator: bool = False,
        detail: str | None = None,
    ) -> None:
        """Put an engine into `state`. Notify its owner if the state changes. A removed engine stays removed.

        `detail` is for the audit log, of a decision that is no call's, which has an entry of its own. The log holds no
        words of people and engines: a reason may have some.
        """
        if engine.state == EngineState.RETIRED:
            return
        changed = engine.state != state
        await self._catalogue.set_state(engine, state, reason, probe_at, by_operator=by_operator)
        self._on_change()
        if state == EngineState.QUARANTINED:
            self._written[engine.id] = None
        if changed and detail:
            version = engine.card.version if engine.card else None
            self._audit.record_act(f"engine {state}", engine.id, version=version, detail=detail)
        if changed:
            await self._notify_owner(engine, state, reason)
        if state == EngineState.QUARANTINED:
            await self.write_control(engine)
        elif state == EngineState.ACTIVE:
            self._wake(engine.id)
        elif probe_at is not None:
            delay = probe_at - time.time() + _PROBE_MARGIN_SECONDS
            asyncio.get_running_loop().call_later(delay, self._wake, engine.id)

    async def _notify_owner(self, engine: KnownEngine, state: EngineState, reason: str | None) -> None:
        if not self._tenants.may_exist(engine.tenant):
            return  # Nobody owns the engines that come with the system, unless the operator makes that tenant.
        data = {"engine": engine.id, "reason": reason}
        await self._notifier.send_event(engine.tenant, ENGINE_STATE_EVENTS[state], data)
        owner = self._tenants.get(engine.tenant)
        if owner and owner.webhook:
            await self._notifier.send_webhook(owner.name, ENGINE_STATE_EVENTS[state], data, owner.webhook)

    async def catch_up(self) -> None:
        """Write the control messages that may be missing: a write failed, or another gateway changed the state."""
        behind = []
        for engine in self._catalogue:
            if engine.state == EngineState.RETIRED:
                # If an engine of this name is deployed again, it may have a new, empty store.
                self._written.pop(engine.id, None)
            elif self._written.get(engine.id, GO_ON) is not self._control_of(engine):
                behind.append(engine)
        await asyncio.gather(*(self._catch_up(engine) for engine in behind))

    async def _catch_up(self, engine: KnownEngine) -> None:
        try:
            async with self._budget.spend():
                await self.write_control(engine)
        except EnginehouseError as error:
            log.warning(
                f"The runners of {engine.id} do not know yet that it is {engine.state}: {error}",
                action="control_waits",
                engine_id=engine.id,
            )

    @staticmethod
    def _control_of(engine: KnownEngine) -> Control:
        return STOP if engine.state == EngineState.QUARANTINED else GO_ON

    async def write_control(self, engine: KnownEngine) -> None:
        """Write into an engine's store whether its runners may begin jobs."""
        await self._write(engine, self._control_of(engine))

    async def resume(self, engine: KnownEngine, check: Callable[[], None]) -> None:
        """Give an engine its jobs again. Its runners are told first; raise Unavailable if they cannot be.

        `check` raises if it must not be. It is asked again at the last moment: an operator may decide while runners are told.
        """
        check()
        await self._write(engine, GO_ON)
        try:
            check()
        except EnginehouseError:
            await self.write_control(engine)
            raise
        engine.forget_failures()
        await self.move(engine, EngineState.ACTIVE)

    async def _write(self, engine: KnownEngine, control: Control) -> None:
        self._written[engine.id] = None
        if not engine.is_trial:  # The message would stop the active version as well. Without jobs, a trial is stopped.
            await self._sidecar.put(results_component(engine.id), CONTROL_KEY, control.model_dump_json().encode())
        self._written[engine.id] = control
