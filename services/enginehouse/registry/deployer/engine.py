"""Keeps one engine in the cluster as its bundle says: one look after the other, woken by what changes."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from enginehouse.contracts.errors import NotAllowedToRun
from enginehouse.contracts.names import SLOTS, Slot, namespace, tenant_of
from enginehouse.registry.bundle import is_retired
from enginehouse.registry.deploy import promote_engine
from enginehouse.registry.deployer.api import ClusterAway, ClusterRefused
from enginehouse.registry.deployer.context import Context
from enginehouse.registry.deployer.credentials import secret_refs
from enginehouse.registry.deployer.health import SlotHealth, slot_health
from enginehouse.registry.deployer.kinds import NAMESPACE, Ref
from enginehouse.registry.deployer.slots import Rules, SlotShown
from enginehouse.registry.deployer.takeover import Takeover, before_takeover
from enginehouse.registry.deployer.trouble import passes, said_of, trace_of, wait_after
from enginehouse.registry.deployer.wanted import Wanted, wanted_of_engine
from enginehouse.registry.kubernetes.labels import HEALTH_PORT
from enginehouse.registry.kubernetes.source import EngineSource, read_source
from enginehouse.registry.snapshot import hold, source_folder, tidy_snapshots
from enginehouse.registry.versions import Versions, fingerprint, read_versions
from enginehouse.yaml_files import InvalidFile

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = (1.0, 60.0)
"""Wait before what failed is tried again: at first, and at most. A change of a file or of the cluster comes before it."""
_FIT_SECONDS = (1.0, 15.0)
"""Wait before a runner is asked again whether its version is fit: at first, and at most."""
_TRUSTING_SECONDS = 60.0
"""An engine of which a pod does not start gets its Secrets again so often."""
_UNFIT_SECONDS = 20.0
"""A version whose runner finds it unfit for so long has failed: its examples have been tried, and pods been replaced."""


@dataclass(slots=True)
class EngineKeeper:
    """One engine, from the moment there is a bundle or an object of it until there is neither."""

    context: Context
    engine: str
    rules: Rules
    on_change: Callable[[], None]
    """Called when what is shown of it has changed."""
    wanted: Wanted | None = None
    """What the cluster is to have of it, but for its Secrets, as of the last look."""
    versions: Versions | None = None
    """As its bundle last said."""
    shown: dict[Slot, SlotShown] = field(default_factory=dict)
    problem: str | None = None
    """Why the cluster cannot be brought to what its bundle says, if that does not pass by itself."""
    gone: bool = False
    """Whether neither a bundle nor an object of it is left."""
    without: set[str] = field(default_factory=set)
    """Objects of the gateway's part that are not wanted any longer, as the engine is being removed."""
    leaves: bool = False
    """Whether nothing of it is wanted any longer, although its bundle is still there."""
    has_left: bool = False
    """Whether nothing of it is left in the cluster."""
    waits: list[str] = field(default_factory=list)
    """What its going waits for."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _held: dict[Slot, tuple[Path, contextlib.ExitStack]] = field(default_factory=dict)
    """Keeps the files of versions, and their slots, while their pods are there."""
    _lacks: dict[Slot, str] = field(default_factory=dict)
    """Which secret a slot waits for."""
    _said: str | None = None
    """What was last wrong."""
    _refused: dict[Slot, str] = field(default_factory=dict)
    """Why the operator's policy does not let a slot's version start."""
    _unfit_since: dict[Slot, float] = field(default_factory=dict)
    """Since when a runner finds its version unfit although the engine's pods are ready."""
    _failures: int = 0
    _is_new: bool = False
    """Whether a version has come whose Secrets have not been written since."""
    _takeover: Takeover = field(init=False)
    _asked: int = 0
    """How often in a row runners were asked whether they are fit."""

    def __post_init__(self) -> None:
        self._takeover = Takeover(self.context.bringing, self.engine)

    @property
    def bundle(self) -> Path:
        """Return the engine's bundle, whether it exists or not."""
        return self.context.engines / self.engine

    def wake(self) -> None:
        """Look again: a file or the cluster has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Look whenever something has changed, until nothing is left."""
        while not self.gone:
            self._wake.clear()
            again = await self._look()
            if not self.gone:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(again):
                        await self._wake.wait()

    async def _look(self) -> float | None:
        """Take the next steps. Return after how many seconds to look again if nothing changes; None: only then."""
        try:
            again = await self._follow()
            self.problem, self._said, self._failures = None, None, 0
        except Exception as error:
            self._note_problem(error)
            self._failures += 1
            again = (
                _AGAIN_SECONDS[1] if isinstance(error, ClusterRefused) else wait_after(self._failures, _AGAIN_SECONDS)
            )
        self.on_change()
        return again

    def _note_problem(self, error: Exception) -> None:
        said, lasts = said_of(error), not passes(error)
        if said != self._said:
            log.warning(
                f"{self.engine}: {said}",
                action="engine_not_brought",
                engine_id=self.engine,
                exc_info=trace_of(error),
            )
        self._said, self.problem = said, said if lasts else None
        for slot in self.shown:
            if not self._runs(slot):
                self._show(slot, "failed" if lasts else "starting", said if lasts else None, None if lasts else said)

    def _runs(self, slot: Slot) -> bool:
        try:
            return slot_health(self.context.bringing, self.engine, slot).state == "running"
        except Exception:  # That is then what is wrong, and it is being told.
            return False

    async def _follow(self) -> float | None:
        source = await asyncio.to_thread(self._read)
        if source is None:
            await self._leave()
            return _AGAIN_SECONDS[0] if self.waits else None
        versions = self.versions
        assert versions
        self._show_new(source)
        tenant = tenant_of(self.engine)
        place = self.context.bringing.inventory.found.get(Ref(NAMESPACE, "", namespace(tenant)))
        if place is None or place.is_leaving:
            raise ClusterAway(f"the namespace of {tenant} is not there yet")
        source = await self._allowed(source)
        wanted = self.wanted = await self._wanted(source)
        if versions.trial and versions.trial != versions.active:
            await self.context.bringing.replace(self.engine, versions.trial, wanted)
        ending = self.context.bringing.ending(self.engine)
        if grows := await self._takeover.waits_for(versions.active, wanted, _most_replicas(source)):
            await self.context.bringing.apply(before_takeover(wanted), but=ending)
            self.waits = [grows]
        else:
            await self.context.bringing.apply(wanted, but=ending)
            self.waits = await self.context.bringing.prune(self.engine, wanted)
        await self._kill_held(versions)
        await self._hold(versions)
        again = await self._judge()
        if grows and versions.active in self.shown and self.shown[versions.active].state != "failed":
            self._show(versions.active, "starting", None, grows)
        if ending or self.waits:
            return _AGAIN_SECONDS[0]
        return again or (_TRUSTING_SECONDS if self._waits_for_pods else None)

    async def _kill_held(self, versions: Versions) -> None:
        """Kill what has begun just before its quarantine."""
        bringing = self.context.bringing
        for slot in () if is_retired(self.bundle) else self.rules.held(self.engine, versions):
            pods = [*bringing.pods(self.engine, slot, "engine"), *bringing.pods(self.engine, slot, "runner")]
            if not all(seen.is_leaving for seen in pods):
                await bringing.kill(self.engine, slot)

    def _read(self) -> EngineSource | None:
        if self.leaves or not self.bundle.is_dir():
            self.versions = None
            return None
        self.versions = read_versions(self.bundle)
        return read_source(self.bundle)

    async def _allowed(self, source: EngineSource) -> EngineSource:
        """Leave out the versions that the operator's policy does not let start. What runs already goes on."""
        self._refused = {}
        for slot in source.slots:
            if not self.context.bringing.runs(self.engine, slot.slot, slot.content):
                try:
                    await asyncio.to_thread(self.context.supply.check, slot.spec, from_image=True)
                except (NotAllowedToRun, InvalidFile) as error:
                    self._refused[slot.slot] = str(error)
        return replace(source, slots=[slot for slot in source.slots if slot.slot not in self._refused])

    async def _wanted(self, source: EngineSource) -> Wanted:
        versions = self.versions
        assert versions
        retired = is_retired(self.bundle)
        held = () if retired else self.rules.held(self.engine, versions)
        if not retired:
            self.rules.take_up(self.engine, versions)
        settings = self.context.settings_of(tenant_of(self.engine))
        runs = [slot for slot in source.slots if slot.slot not in held]
        secrets = await asyncio.to_thread(self.context.credentials.secrets_of, self.engine) if runs else None
        wanted = wanted_of_engine(source, settings, secrets.hashes if secrets else None, held, self.without)
        self._lacks = {}
        if secrets is None:
            return wanted
        for slot in runs:
            if missing := sorted(set(slot.spec.secrets) - secrets.own):
                self._lacks[slot.slot] = (
                    f"{self.engine} cannot start: its engine.yaml names the secret {missing[0]}, which has no value. "
                    f"Type: enginehouse engines secret set {self.engine} {missing[0]}"
                )
        # Somebody may have deleted Secrets, which nobody here sees: a pod that is to start must find them.
        trusting = 0.0 if self._is_new else _TRUSTING_SECONDS if self._waits_for_pods else math.inf
        await self.context.bringing.apply(Wanted.of(secrets.objects), trusting=trusting)
        self._is_new = False
        return wanted

    @property
    def _waits_for_pods(self) -> bool:
        states = {shown.state for shown in self.shown.values()}
        return not states.isdisjoint(("starting", "failed")) or self.context.bringing.has_waiting_pods(self.engine)

    async def _leave(self) -> None:
        """Delete what is left in the cluster of an engine without a bundle."""
        self.shown = {}
        nothing = Wanted.of(())
        self.waits = await self.context.bringing.prune(self.engine, nothing)
        if self.is_left_in_cluster:
            return
        for ref in secret_refs(self.engine):
            await self.context.bringing.delete(ref)
        await self._let_go(())
        self.has_left = True
        self.gone = not self.bundle.is_dir()

    @property
    def is_left_in_cluster(self) -> bool:
        """Say whether the cluster still has anything of it but Secrets."""
        return any(True for _ in self.context.bringing.inventory.of(self.engine))

    def _show_new(self, source: EngineSource) -> None:
        """Show what a look begins with: a version that nobody has noticed before starts."""
        running = [] if is_retired(self.bundle) else [slot.slot for slot in source.slots]
        self.shown = {slot: shown for slot, shown in self.shown.items() if slot in running}
        for slot in running:
            deployed = fingerprint(self.bundle, slot)
            if slot not in self.shown or self.shown[slot].deployed != deployed:
                self.shown[slot] = SlotShown(slot, "starting", None, "it is applied", deployed)
                self._is_new = True

    def _show(self, slot: Slot, state: str, problem: str | None = None, doing: str | None = None) -> None:
        shown = self.shown[slot]
        now = SlotShown(slot, state, problem, doing, shown.deployed)
        if now == shown:
            return
        self.shown[slot] = now
        if state == "failed" and shown.state != "failed":
            log.error(f"Slot {slot} of {self.engine} failed: {problem}", action="engine_failed", engine_id=self.engine)

    async def _judge(self) -> float | None:
        """Say how each slot is, and promote a version that is fit and is to be promoted."""
        versions = self.versions
        assert versions
        held = () if is_retired(self.bundle) else self.rules.held(self.engine, versions)
        unsettled = False
        for slot in self.shown:
            if slot in held:
                self._show(slot, "quarantined", self.rules.reason(self.engine))
                continue
            if waits := self._refused.get(slot) or self._lacks.get(slot):
                self._show(slot, "failed", waits)
                continue
            await self._judge_slot(slot)
            unsettled = unsettled or self.shown[slot].state != "running"
        await self._promote_if_fit(held)
        first, most = _FIT_SECONDS
        self._asked = self._asked + 1 if unsettled else 0
        return min(first * 1.5 ** min(self._asked, 10), most) if unsettled else None

    async def _judge_slot(self, slot: Slot) -> None:
        health = slot_health(self.context.bringing, self.engine, slot)
        found = await self._runners_problem(health)
        is_unfit = found is not None and health.has_engine
        if not is_unfit:
            self._unfit_since.pop(slot, None)
        if health.state == "running" and not found:
            self._show(slot, "running")
        elif health.state == "failed":
            self._show(slot, "failed", health.problem)
        elif is_unfit and time.monotonic() > self._unfit_since.setdefault(slot, time.monotonic()) + _UNFIT_SECONDS:
            self._show(slot, "failed", found)
        elif self.shown[slot].state != "failed":  # What has failed stays so until it runs: it is tried again and again.
            self._show(slot, "starting", found, health.doing)

    async def _runners_problem(self, health: SlotHealth) -> str | None:
        """Return what a slot's runner finds wrong; nothing while there is none to be asked."""
        if health.runner is None:
            return None
        return await self.context.gateway.runners_problem(health.runner, HEALTH_PORT)

    async def _promote_if_fit(self, held: Collection[Slot]) -> None:
        versions = self.versions
        slot = versions.promote if versions else None
        if slot is None or versions is None or slot in held or self.rules.withholds(self.engine):
            return
        shown = self.shown.get(slot)
        if shown is None or shown.state != "running" or shown.deployed != fingerprint(self.bundle, slot):
            return
        judged = versions.slots[slot]
        began = time.monotonic()
        await asyncio.to_thread(promote_engine, self.context.engines, self.engine, judged)
        self.context.audit.record_act("version promoted", self.engine, version=judged.version)
        log.info(
            f"Slot {slot} gets the jobs of {self.engine}",
            action="promoted",
            engine_id=self.engine,
            seconds=round(time.monotonic() - began, 3),
        )
        self._wake.set()

    async def _hold(self, versions: Versions) -> None:
        """Hold the files of every version whose pods are there: then no other version takes its slot."""
        there = {
            slot
            for slot in SLOTS
            if slot in versions.running or self.context.bringing.pods(self.engine, slot, "runner")
        }
        for slot in there:
            workload = versions.slots.get(slot)
            if workload is None:
                continue
            source = source_folder(self.bundle, workload.source)
            if slot in self._held and self._held[slot][0] == source:
                continue
            self._drop(slot)
            holding = contextlib.ExitStack()
            with contextlib.suppress(OSError):
                holding.enter_context(hold(source))
                self._held[slot] = (source, holding)
        await self._let_go(there)

    async def _let_go(self, there: Collection[Slot]) -> None:
        gone = [slot for slot in self._held if slot not in there]
        for slot in gone:
            self._drop(slot)
        if gone:
            await asyncio.to_thread(tidy_snapshots, self.context.engines, self.engine)

    def _drop(self, slot: Slot) -> None:
        if slot in self._held:
            self._held.pop(slot)[1].close()


def _most_replicas(source: EngineSource) -> int:
    """Return how many replicas the active version may have."""
    return next((slot.spec.scale.max for slot in source.slots if slot.slot == source.active), 0)
