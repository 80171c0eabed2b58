"""Follows which engines the gateway has quarantined: they lose their pods, their network and their user of the broker.

What it said last is kept in a file, so that a start brings none of them back before the gateway answers.
"""

import asyncio
from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import SLOTS, Slot, engine_of, engine_user, trial_of
from enginehouse.registry.bundle import WORKLOADS_FILE, InvalidBundle, read_workloads
from enginehouse.registry.deployer.context import Context
from enginehouse.registry.known_quarantines import KnownQuarantines, Quarantine, engines_in
from enginehouse.registry.versions import Versions

log = structlog.get_logger(__name__)

_WAIT_SECONDS = 60
"""The gateway answers when something changes, or so late."""
_AGAIN_SECONDS = 1.0
"""Wait before a gateway that does not answer is asked again, and before pods that were not killed are tried again."""


@dataclass(slots=True)
class Quarantines:
    """The quarantined engines of one cluster."""

    context: Context
    file: Path
    """Keeps what the gateway said last."""
    on_change: Callable[[Collection[str]], None]
    """Told the engines whose quarantine has begun or ended."""
    _list: KnownQuarantines = field(init=False)
    _stopped: set[str] = field(default_factory=set)
    """Engines whose pods have been killed, and whose credentials have been taken back."""
    _replaced: set[str] = field(default_factory=set)
    """Engines whose quarantine ends because another version has become active."""

    def __post_init__(self) -> None:
        self._list = KnownQuarantines(self.context.engines, self.file)

    @property
    def _known(self) -> dict[str, Quarantine]:
        return self._list.found

    async def start(self) -> None:
        """Read what the gateway said last, and take the credentials of these engines back."""
        self._list.read()
        for engine in engines_in(self._known):
            await asyncio.to_thread(self.context.users.revoke, engine_user(engine))

    def held(self, engine: str, versions: Versions) -> Collection[Slot]:
        """Return the slots of an engine whose versions must not run."""
        found = self._known.get(engine)
        if found is None:
            return ()
        contents = {slot: versions.slots.get(slot) for slot in versions.running}
        return [slot for slot, workload in contents.items() if workload is None or found.holds(workload.content)]

    def reason(self, engine: str) -> str:
        """Return why an engine is quarantined."""
        found = self._known.get(engine)
        return found.reason if found else ""

    def trial_reason(self, engine: str) -> str:
        """Return why an engine's version on trial must not be promoted."""
        return self.reason(trial_of(engine))

    def withholds(self, engine: str) -> bool:
        """Say whether an engine's version on trial must not be promoted."""
        return trial_of(engine) in self._known

    def take_up(self, engine: str, versions: Versions) -> None:
        """Hear what an engine's bundle wants to run. A version that was deployed after its quarantine gets credentials.

        It ends the quarantine when it becomes active.
        """
        if engine not in self._known:
            return
        held = self.held(engine, versions)
        if all(slot in held for slot in versions.running):
            return
        self.context.users.readmit(engine_user(engine))
        if versions.active and versions.active not in held and engine not in self._replaced:
            self._replaced.add(engine)
            self.context.background.start(self._resume(engine))

    async def follow(self) -> None:
        """Stop and start engines as the gateway's list says, for ever. While it does not answer, the last one holds."""
        tag = ""
        while True:
            try:
                found = await self.context.gateway.ask(
                    "/v1/quarantines", {"known": tag} if tag else None, wait_seconds=_WAIT_SECONDS
                )
                await self._take(found["quarantines"])
                tag = found["tag"]
            except (EnginehouseError, KeyError, TypeError, ValueError):
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _resume(self, engine: str) -> None:
        try:
            await self.context.gateway.tell(f"/v1/engines/{engine}/resume", {"unless_by_operator": True})
        except EnginehouseError as error:
            log.warning(f"The quarantine of {engine} does not end: {error}", action="resume_failed")
        finally:
            self._replaced.discard(engine)

    async def _take(self, listed: list[dict[str, Any]]) -> None:
        before = self._known
        changed = await self._list.take(listed)
        begun = engines_in(self._known) - self._stopped
        try:
            await self._stop(begun)
        finally:
            self._admit(engines_in(before) - self._known.keys())
            self.on_change({engine_of(name) for name in changed})

    async def _stop(self, begun: AbstractSet[str]) -> None:
        """Take everything from engines. The keepers set their Deployments to zero meanwhile, so that no pod comes back."""
        for engine in begun:
            log.warning(
                f"{engine} is quarantined: its pods are killed, and its credentials are taken back",
                action="engine_killed",
                engine_id=engine,
            )
            await asyncio.to_thread(self.context.users.revoke, engine_user(engine))
        for engine in begun:
            await self._kill(engine)
            self._stopped.add(engine)
            self.context.audit.record_act("engine killed, credentials revoked", engine)

    async def _kill(self, engine: str) -> None:
        found = self._known[engine]
        try:
            slots = read_workloads(self.context.engines / engine / WORKLOADS_FILE).slots
        except (InvalidBundle, OSError):
            slots = {}
        for slot in SLOTS:
            if slot not in slots or found.holds(slots[slot].content):
                await self.context.bringing.kill(engine, slot)

    def _admit(self, ended: AbstractSet[str]) -> None:
        for engine in ended:
            self._stopped.discard(engine)
            self.context.audit.record_act("quarantine ended, credentials renewed", engine)
            self.context.users.readmit(engine_user(engine))
