"""Follow which engines the gateway has quarantined: their processes stop, and start again when it resumes them.

What it said last is kept in a file, so that a start runs none of them before the gateway answers.
"""

import asyncio
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import structlog

from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.broker.users import BrokerUsers
from enginehouse.contracts.names import SLOTS, Slot, app_id, engine_of, engine_user, trial_of
from enginehouse.local.engine_keepers import EngineKeepers
from enginehouse.local.health import plain_http
from enginehouse.local.home import Home
from enginehouse.registry.known_quarantines import KnownQuarantines, Quarantine, engines_in
from enginehouse.registry.versions import Versions, fingerprint

log = structlog.get_logger(__name__)

_WAIT_SECONDS = 60
"""The gateway answers when something changes, or so late."""
_AGAIN_SECONDS = 0.5
"""Wait before a gateway that does not answer is asked again."""


class Shown(NamedTuple):
    """What `run/state.json` says about active versions, and about those on trial, by engine id."""

    engines: dict[str, dict[str, str | None]]
    trials: dict[str, dict[str, str | None]]


@dataclass(slots=True)
class Quarantines:
    """The quarantined engines of one home."""

    home: Home
    url: str
    """Of the gateway."""
    users: BrokerUsers
    audit: AuditLog
    background: Background
    _list: KnownQuarantines = field(init=False)
    _stopped: set[str] = field(default_factory=set)
    """Engines that have been killed, and whose credentials have been taken back."""
    _held: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """What is shown of versions that must not run, by app id."""
    _replaced: set[str] = field(default_factory=set)
    """Engines whose quarantine ends because another version has become active."""

    def __post_init__(self) -> None:
        self._list = KnownQuarantines(self.home.engines, self.home.run / "quarantined.json")

    @property
    def _known(self) -> dict[str, Quarantine]:
        return self._list.found

    async def start(self) -> None:
        """Read what the gateway said last, and take all credentials back that an external broker may still know."""
        self._list.read()
        await self._revoke_all(engines_in(self._known))

    async def _revoke_all(self, engines: Iterable[str]) -> None:
        """Take the credentials of these engines back. If one cannot be, the others are all the same; then raise its error."""
        await asyncio.gather(*(self._revoke(engine_id) for engine_id in engines))

    async def _revoke(self, engine_id: str) -> None:
        await asyncio.to_thread(self.users.revoke, engine_user(engine_id))
        self._stopped.add(engine_id)

    def holds(self, engine_id: str, slot: Slot, versions: Versions | None) -> bool:
        """Say whether the version in a slot of an engine must not run."""
        found = self._known.get(engine_id)
        workload = versions.slots.get(slot) if versions else None
        return found is not None and (workload is None or found.holds(workload.content))

    def withholds(self, engine_id: str) -> bool:
        """Say whether an engine's version on trial must not be promoted."""
        return trial_of(engine_id) in self._known

    def take_up(self, bundle: Path, slots: Iterable[Slot], versions: Versions | None) -> None:
        """Take up what a bundle wants to run: show what must not, and give anything else credentials of its own.

        Such a version was deployed after the quarantine, which it ends when it becomes active.
        """
        engine_id = bundle.name
        for slot in SLOTS:
            self._held.pop(app_id(engine_id, slot), None)
        found = self._known.get(engine_id)
        if found is None:
            return
        for slot in slots:
            if self.holds(engine_id, slot, versions):
                self._held[app_id(engine_id, slot)] = {
                    "state": "quarantined",
                    "slot": slot,
                    "problem": found.reason,
                    "doing": None,
                    "deployed": fingerprint(bundle, slot),
                }
                continue
            self.users.readmit(engine_user(engine_id))
            if versions and slot == versions.active and engine_id not in self._replaced:
                self._replaced.add(engine_id)
                self.background.start(self._resume(engine_id))

    def shown(self, running: Shown, routed: Mapping[str, Versions]) -> Shown:
        """Return what is shown of all versions: of `running` ones, and of those that must not run or not be promoted."""
        shown = Shown(dict(running.engines), dict(running.trials))
        for engine_id in self._known.keys() & routed.keys():
            versions = routed[engine_id]
            for slot, entries in ((versions.active, shown.engines), (versions.trial, shown.trials)):
                if slot and (entry := self._held.get(app_id(engine_id, slot))):
                    entries[engine_id] = entry
        for engine_id in running.trials:
            if found := self._known.get(trial_of(engine_id)):
                shown.trials[engine_id] = {**running.trials[engine_id], "state": "quarantined", "problem": found.reason}
        return shown

    async def follow(self, keepers: EngineKeepers) -> None:
        """Stop and start engines as the gateway's list says, for ever. While it does not answer, the last one holds."""
        tag = ""
        async with plain_http(_WAIT_SECONDS + 30) as http:
            while True:
                try:
                    found = await self._ask(http, "GET", "/v1/quarantines", params={"known": tag})
                    await self._take(found["quarantines"], keepers)
                    tag = found["tag"]
                except (httpx2.HTTPError, KeyError, TypeError, ValueError):
                    await asyncio.sleep(_AGAIN_SECONDS)

    async def _resume(self, engine_id: str) -> None:
        try:
            async with plain_http(30) as http:
                await self._ask(http, "POST", f"/v1/engines/{engine_id}/resume", params={"unless_by_operator": True})
        except httpx2.HTTPError as error:
            log.warning(f"The quarantine of {engine_id} does not end: {error}", action="resume_failed")
        finally:
            self._replaced.discard(engine_id)

    async def _ask(self, http: httpx2.AsyncClient, method: str, path: str, **more: Any) -> dict[str, Any]:
        key = self.home.read_local().get("api_key", "")
        headers = {"authorization": f"Bearer {key}", "prefer": f"wait={_WAIT_SECONDS}"}
        answer = await http.request(method, f"{self.url}{path}", headers=headers, **more)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def _take(self, listed: list[dict[str, Any]], keepers: EngineKeepers) -> None:
        before = self._known
        changed = await self._list.take(listed)
        try:
            await self._stop(engines_in(self._known) - self._stopped, keepers)
        finally:
            self._admit(engines_in(before) - self._known.keys())
            if changed:
                keepers.follow({engine_of(address) for address in changed})

    async def _stop(self, begun: AbstractSet[str], keepers: EngineKeepers) -> None:
        for engine_id in begun:
            log.warning(
                f"{engine_id} is quarantined: it is killed, and its credentials are taken back",
                action="engine_killed",
                engine_id=engine_id,
            )
            keepers.kill(engine_id)
        await self._revoke_all(begun)
        for engine_id in begun:
            self.audit.record_act("engine killed, credentials revoked", engine_id)

    def _admit(self, ended: AbstractSet[str]) -> None:
        for engine_id in ended:
            self._stopped.discard(engine_id)
            self.audit.record_act("quarantine ended, credentials renewed", engine_id)
            self.users.readmit(engine_user(engine_id))
