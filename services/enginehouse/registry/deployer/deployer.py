"""The registry's deployer: follows the bundles of its home and the cluster, with a keeper for each engine and tenant."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from enginehouse.contracts.names import is_engine_id
from enginehouse.private_files import write_private
from enginehouse.registry import deploy, tenants
from enginehouse.registry.deployer.context import Context
from enginehouse.registry.deployer.diff import differences
from enginehouse.registry.deployer.engine import EngineKeeper
from enginehouse.registry.deployer.gateway_files import GatewayFiles
from enginehouse.registry.deployer.inventory import Inventory
from enginehouse.registry.deployer.quarantines import Quarantines
from enginehouse.registry.deployer.removals import Removals
from enginehouse.registry.deployer.slots import SlotShown
from enginehouse.registry.deployer.tenant import TenantKeeper
from enginehouse.registry.deployer.trouble import said_of
from enginehouse.registry.views import Difference
from enginehouse.watched_files import changes_of

log = structlog.get_logger(__name__)

_STATE_SECONDS = 0.2
"""What is shown is written at most so often: a start of thousands of engines must not write a file for each step."""
_STATE_LATEST_SECONDS = 30.0
_AGAIN_SECONDS = 5.0
"""Wait before a part that failed begins again."""
_SHOWN_SECONDS = 60.0
"""So long it is shown that a part has failed, although it runs again."""


@dataclass(slots=True)
class Deployer:
    """Brings one cluster to what one home says, from `run` until that is cancelled."""

    context: Context
    inventory: Inventory
    quarantines: Quarantines
    removals: Removals
    gateway_files: GatewayFiles
    state_file: Path
    secrets: Path
    """Folder with the values of engines' secrets."""
    engines: dict[str, EngineKeeper] = field(default_factory=dict)
    tenants: dict[str, TenantKeeper] = field(default_factory=dict)
    _failed: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By part: why it failed last, and when."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when what is shown has changed."""

    def reset(self) -> None:
        """Forget what a run that failed has begun: the next one looks at everything again."""
        self.engines.clear()
        self.tenants.clear()
        self.inventory.forget()

    async def run(self) -> None:
        """Follow the home and the cluster, for ever."""
        context = self.context
        for folder in (context.engines, context.tenants, context.webhook_secrets, self.secrets, context.supply.folder):
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(deploy.sweep, self.context.engines)
        await asyncio.to_thread(tenants.sweep, self.context.tenants)
        await asyncio.to_thread(self.context.users.start)
        await self.quarantines.start()
        self._write_state()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.inventory.run())
            tasks.create_task(self._keep_going("state", self._show))
            tasks.create_task(self._keep_going("broker's users", self.context.users.keep))
            tasks.create_task(self._keep_going("tenants' files", self.gateway_files.run))
            await self.inventory.complete.wait()
            log.info("All objects of the cluster are known", action="inventory_complete")
            tasks.create_task(self._keep_going("quarantines", self.quarantines.follow))
            tasks.create_task(self._keep_going("removals", self.removals.run))
            await self._follow_files(tasks)

    @property
    def problems(self) -> dict[str, str]:
        """Return what is wrong with the deployer itself, by part."""
        latest = time.monotonic() - _SHOWN_SECONDS
        found = {part: said for part, (said, when) in self._failed.items() if when > latest}
        kinds = {kind.plural: said for kind, said in self.inventory.problems.items()}
        given = {"tenants' files": self.gateway_files.problem} if self.gateway_files.problem else {}
        return {**kinds, **given, **found}

    def note_trouble(self, part: str, error: Exception) -> None:
        """Show that a part has failed, which begins again."""
        self._failed[part] = (said_of(error), time.monotonic())
        self._write_state()

    async def _keep_going(self, part: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part; if it fails, it alone begins again."""
        while True:
            try:
                return await run()
            except Exception as error:
                log.exception(f"{part}: {said_of(error)}", action="part_failed", part=part)
                self.note_trouble(part, error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def differences(self, engine_id: str) -> list[Difference]:
        """Return what of an engine is not in the cluster as it is wanted. Raise EngineDoesNotExist, or ClusterAway."""
        keeper = self.engines.get(engine_id)
        return await differences(self.context.bringing, engine_id, keeper.wanted if keeper else None)

    async def _follow_files(self, tasks: asyncio.TaskGroup) -> None:
        context = self.context
        supply = [context.supply.folder] if context.supply.folder else []
        watched = (context.engines, context.tenants, context.webhook_secrets, self.secrets, *supply)
        async with aclosing(changes_of(*watched, step=50, debounce=200)) as told:
            async for changes in told:
                paths = {Path(path) for _, path in changes}
                self._keep_all(tasks)
                self._wake(paths)
                self.removals.wake()

    def _keep_all(self, tasks: asyncio.TaskGroup) -> None:
        """Let each engine and tenant that has a bundle have a keeper.

        What the cluster has of others stays as it is: a home that was lost must not empty the cluster.
        """
        bundles = {path.name for path in self.context.engines.iterdir() if is_engine_id(path.name)}
        for engine in bundles - self.engines.keys():
            keeper = EngineKeeper(self.context, engine, self.quarantines, self._note_change)
            self._start(tasks, self.engines, engine, keeper)
        for tenant in set(tenants.tenant_names(self.context.tenants)) - self.tenants.keys():
            self._start(tasks, self.tenants, tenant, TenantKeeper(self.context, tenant, self._note_change))

    def _start(self, tasks: asyncio.TaskGroup, keepers: dict, name: str, keeper: "EngineKeeper | TenantKeeper") -> None:  # type: ignore[type-arg]
        keepers[name] = keeper
        task = tasks.create_task(keeper.run(), name=f"keep {name}")

        def forget(_: "asyncio.Task[None]") -> None:
            if keepers.get(name) is keeper:
                del keepers[name]
                self._note_change()

        task.add_done_callback(forget)

    def _wake(self, paths: Collection[Path]) -> None:
        """Let those look whose files have changed."""
        for engine in _names(paths, self.context.engines):
            if keeper := self.engines.get(engine):
                keeper.wake()
        for name in _names(paths, self.secrets):
            if keeper := self.engines.get(name.removesuffix(".json")):
                keeper.wake()
        if self.context.supply.folder and _names(paths, self.context.supply.folder):
            self.note_engines(self.engines)
        changed = _names(paths, self.context.tenants)
        for tenant in changed:
            if tenant_keeper := self.tenants.get(tenant):
                tenant_keeper.wake()
            self._wake_engines_of(tenant)
        if changed or _names(paths, self.context.webhook_secrets):
            self.gateway_files.wake()

    def _wake_engines_of(self, tenant: str) -> None:
        for engine, keeper in self.engines.items():
            if engine.startswith(f"{tenant}--"):
                keeper.wake()

    def note_object(self, tenant: str, engine: str | None) -> None:
        """Let those look whose objects in the cluster have changed."""
        if engine is not None:
            if keeper := self.engines.get(engine):
                keeper.wake()
            return
        if tenant_keeper := self.tenants.get(tenant):
            tenant_keeper.wake()
        self._wake_engines_of(tenant)

    def note_engines(self, engines: Iterable[str]) -> None:
        """Let these engines look again."""
        for engine in engines:
            if keeper := self.engines.get(engine):
                keeper.wake()
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()

    async def _show(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STATE_LATEST_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            self._write_state()
            await asyncio.sleep(_STATE_SECONDS)

    def _write_state(self) -> None:
        """Write what the registry's API answers about engines. What runs does not depend on it."""
        problems = {name: keeper.problem for name, keeper in self.engines.items()}
        problems |= {name: tenant_keeper.problem for name, tenant_keeper in self.tenants.items()}
        state = {
            "supervisor": os.getpid(),
            "cluster": True,
            "engines": self._shown(_active),
            "trials": self._shown(_on_trial),
            "refused": {name: problem for name, problem in problems.items() if problem},
            "problems": self.problems,
            "broker": self.context.users.problem,
            "removing": self.removals.waits_for,
        }
        try:
            write_private(self.state_file, json.dumps(state))
        except OSError as error:
            log.error(f"The registry shows what was before: {error}", action="state_not_written")

    def _shown(self, slot_of: "Callable[[EngineKeeper], str | None]") -> Mapping[str, dict[str, str | None]]:
        found: dict[str, SlotShown | None] = {
            engine: next((shown for slot, shown in keeper.shown.items() if slot == slot_of(keeper)), None)
            for engine, keeper in self.engines.items()
        }
        return {engine: self._entry(engine, shown) for engine, shown in found.items() if shown}

    def _entry(self, engine: str, shown: SlotShown) -> dict[str, str | None]:
        entry = shown.entry()
        versions = self.engines[engine].versions
        if versions and shown.slot == versions.trial != versions.active and self.quarantines.withholds(engine):
            return {**entry, "state": "quarantined", "problem": self.quarantines.trial_reason(engine)}
        return entry


def _active(keeper: EngineKeeper) -> str | None:
    return keeper.versions.active if keeper.versions else None


def _on_trial(keeper: EngineKeeper) -> str | None:
    versions = keeper.versions
    return versions.trial if versions and versions.trial != versions.active else None


def _names(paths: Collection[Path], folder: Path) -> set[str]:
    return {path.relative_to(folder).parts[0] for path in paths if folder in path.parents}
