"""Follows which engines the gateway has quarantined: they lose their pods, their network and their user of the broker.

What it said last is kept in a file, so that a start brings none of them back before the gateway answers.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import SLOTS, Slot, engine_of, engine_user, is_trial, trial_of
from enginehouse.homes import read_json
from enginehouse.private_files import write_private
from enginehouse.registry.bundle import WORKLOADS_FILE, InvalidBundle, read_workloads
from enginehouse.registry.deployer.context import Context
from enginehouse.registry.versions import Versions

log = structlog.get_logger(__name__)

_WAIT_SECONDS = 60
"""The gateway answers when something changes, or so late."""
_AGAIN_SECONDS = 1.0
"""Wait before a gateway that does not answer is asked again, and before pods that were not killed are tried again."""


class Quarantine(BaseModel):
    """An engine that must not run, or a version on trial that must not be promoted."""

    model_config = ConfigDict(frozen=True)

    reason: str
    by_operator: bool
    held: frozenset[str] | None
    """Contents of the versions that were deployed when it was quarantined. None: they cannot be read, so all are held."""

    def holds(self, content: str) -> bool:
        """Say whether a version must not run. One that was deployed afterwards may, unless an operator decided it."""
        return self.by_operator or self.held is None or content in self.held


@dataclass(slots=True)
class Quarantines:
    """The quarantined engines of one cluster."""

    context: Context
    file: Path
    on_change: Callable[[Collection[str]], None]
    """Told the engines whose quarantine has begun or ended."""
    _known: dict[str, Quarantine] = field(default_factory=dict)
    """By engine id, or by the address of a version on trial."""
    _stopped: set[str] = field(default_factory=set)
    """Engines whose pods have been killed, and whose credentials have been taken back."""
    _replaced: set[str] = field(default_factory=set)
    """Engines whose quarantine ends because another version has become active."""

    async def start(self) -> None:
        """Read what the gateway said last, and take the credentials of these engines back."""
        with contextlib.suppress(ValidationError):
            self._known = {name: Quarantine.model_validate(found) for name, found in read_json(self.file).items()}
        for engine in _engines(self._known):
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
        self._known = {each["engine"]: await asyncio.to_thread(self._quarantine, each) for each in listed}
        changed = {name for name in before | self._known if before.get(name) != self._known.get(name)}
        if changed:
            # Written first: whatever is killed now, the next start holds them.
            write_private(
                self.file, json.dumps({name: found.model_dump(mode="json") for name, found in self._known.items()})
            )
        begun = set(_engines(self._known)) - self._stopped
        try:
            await self._stop(begun)
        finally:
            self._admit(set(_engines(before)) - self._known.keys())
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

    def _quarantine(self, listed: dict[str, Any]) -> Quarantine:
        address, known = listed["engine"], self._known.get(listed["engine"])
        held = known.held if known and known.held is not None else self._contents(engine_of(address))
        return Quarantine(reason=listed["reason"], by_operator=listed["by_operator"], held=held)

    def _contents(self, engine: str) -> frozenset[str] | None:
        try:
            workloads = read_workloads(self.context.engines / engine / WORKLOADS_FILE)
        except (InvalidBundle, OSError):
            return None
        return frozenset(workload.content for workload in workloads.slots.values())


def _engines(addresses: Iterable[str]) -> list[str]:
    """Return those of the addresses that mean an engine: a version on trial alone goes on running."""
    return [address for address in addresses if not is_trial(address)]
