"""Run in each slot of a home's engines what their bundles say."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import structlog

from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.contracts.names import Slot, app_id
from enginehouse.contracts.problem import PROBLEM_FILE
from enginehouse.local.engine_keeper import EngineKeeper
from enginehouse.local.stack_context import StackContext
from enginehouse.registry.bundle import InvalidBundle, Workload, is_retired
from enginehouse.registry.deploy import promote_engine
from enginehouse.registry.versions import Versions, fingerprint, read_versions

log = structlog.get_logger(__name__)


class Rules(Protocol):
    """Says which versions must not run."""

    def holds(self, engine_id: str, slot: Slot, versions: Versions | None) -> bool:
        """Say whether the version in a slot of an engine must not run."""

    def withholds(self, engine_id: str) -> bool:
        """Say whether an engine's version on trial must not be promoted."""

    def take_up(self, bundle: Path, slots: Sequence[Slot], versions: Versions | None) -> None:
        """Hear what a bundle wants to run, before any of it is started."""


@dataclass(slots=True)
class EngineKeepers:
    """The keepers of all slots that run."""

    context: StackContext
    audit: AuditLog
    background: Background
    rules: Rules
    on_change: Callable[[], None]
    """Called when what is shown of the engines has changed."""
    routed: dict[str, Versions] = field(default_factory=dict)
    """The versions of each engine, as its bundle last said."""
    _keepers: dict[str, EngineKeeper] = field(default_factory=dict)
    """By app id."""

    @property
    def active(self) -> dict[str, EngineKeeper]:
        """Keepers of the active versions of engines, by engine id."""
        return {keeper.engine_id: keeper for keeper in self._keepers.values() if self._role(keeper) == "active"}

    @property
    def on_trial(self) -> dict[str, EngineKeeper]:
        """Keepers of the versions on trial, by engine id."""
        return {keeper.engine_id: keeper for keeper in self._keepers.values() if self._role(keeper) == "trial"}

    def _role(self, keeper: EngineKeeper) -> Literal["active", "trial", "former"]:
        """Say whether a slot gets the engine's jobs, is on trial, or ends the jobs that it had before."""
        routed = self.routed.get(keeper.engine_id)
        if routed is None or keeper.slot == routed.active:
            return "active"
        return "trial" if keeper.slot == routed.trial else "former"

    def runs(self, engine_id: str) -> bool:
        """Say whether anything of an engine runs."""
        return any(keeper.engine_id == engine_id for keeper in self._keepers.values())

    async def settled(self) -> None:
        """Wait until every engine that is starting or stopping is running, failed or gone."""
        await asyncio.gather(*(keeper.settled.wait() for keeper in self._keepers.values()))

    async def stop(self) -> None:
        """Stop all of them, at the same time."""
        keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.want(None)
        if keepers:
            await asyncio.wait([keeper.task for keeper in keepers])

    def follow(self, only: AbstractSet[str] | None = None) -> None:
        """Run in each slot what the bundles say; `only` of these engines, if given.

        A slot that gets no jobs any longer ends those that it has first.
        """
        bundles = {
            name: bundle for name, bundle in self.context.home.engine_bundles().items() if not is_retired(bundle)
        }
        wanted: dict[str, str] = {}
        for engine_id in bundles if only is None else sorted(bundles.keys() & only):
            bundle, slots = bundles[engine_id], self._slots_to_run(engine_id, bundles[engine_id])
            versions = self.routed.get(engine_id)
            self.rules.take_up(bundle, slots, versions)
            for slot in slots:
                app = app_id(engine_id, slot)
                if self.rules.holds(engine_id, slot, versions):
                    continue
                keeper = self._keepers.get(app)
                if keeper is None or keeper.task.done():
                    keeper = self._keepers[app] = self._new_keeper(engine_id, slot, bundle)
                wanted[app] = fingerprint(bundle, slot)
        self.routed = {engine_id: routed for engine_id, routed in self.routed.items() if engine_id in bundles}
        for app, keeper in self._keepers.items():
            if only is not None and keeper.engine_id not in only:
                continue
            keeper.want(wanted.get(app), finish_jobs=keeper.engine_id in bundles and app not in wanted)
            self._judge_if_due(keeper)
        self.on_change()

    def kill(self, engine_id: str) -> None:
        """Kill all processes of an engine, without waiting."""
        for keeper in self._keepers.values():
            if keeper.engine_id == engine_id:
                keeper.kill()

    def _slots_to_run(self, engine_id: str, bundle: Path) -> list[Slot]:
        try:
            routed = self.routed[engine_id] = read_versions(bundle)
        except InvalidBundle:
            # What runs goes on, or fails with the reason: its fingerprint shows the mistake as well.
            return [keeper.slot for keeper in self._keepers.values() if keeper.engine_id == engine_id] or ["a"]
        return routed.running

    def _new_keeper(self, engine_id: str, slot: Slot, bundle: Path) -> EngineKeeper:
        keeper = EngineKeeper(self.context, engine_id, slot, bundle, self._note_change, self._note_misdeed)

        def forget(_: "asyncio.Task[None]") -> None:
            if self._keepers.get(app_id(engine_id, slot)) is keeper:
                del self._keepers[app_id(engine_id, slot)]
                self.on_change()

        keeper.task.add_done_callback(forget)
        return keeper

    def _note_change(self, keeper: EngineKeeper) -> None:
        self._judge_if_due(keeper)
        self.on_change()

    def _note_misdeed(self, keeper: EngineKeeper, misdeed: Misdeed, times: int) -> None:
        """Report what an active version was seen doing. One on trial must not stop the version that serves."""
        if self._role(keeper) == "active":
            self.context.misbehaviour.note(keeper.engine_id, misdeed, times)

    def _judge_if_due(self, keeper: EngineKeeper) -> None:
        """Try the own examples of a version that is to be promoted, and of one that is its engine's only one."""
        routed = self.routed.get(keeper.engine_id)
        if routed is None or keeper.is_judged or keeper.state != "running":
            return
        if routed.promote == keeper.slot:
            if self.rules.withholds(keeper.engine_id):
                return  # It is judged, and promoted, when its quarantine has ended.
            self.background.start(self._promote(keeper, keeper.begin_to_judge()))
        elif routed.active == keeper.slot and len(routed.slots) == 1:
            self.background.start(keeper.begin_to_judge())

    async def _promote(self, keeper: EngineKeeper, judging: Awaitable[Workload | None]) -> None:
        """Give a version on trial the engine's jobs, if it answers its own examples."""
        judged = await judging
        if judged is None:
            if keeper.rejected:
                self.audit.record_act("trial failed", keeper.engine_id, "failed", version=keeper.version)
            return
        if self.rules.withholds(keeper.engine_id):
            keeper.is_judged = False  # It was quarantined meanwhile.
            return
        try:
            await asyncio.to_thread(promote_engine, self.context.home.engines, keeper.engine_id, judged)
        except (EnginehouseError, OSError) as error:
            log.warning(
                f"The version on trial of {keeper.engine_id} is not promoted: {error}",
                action="promote_failed",
                engine_id=keeper.engine_id,
            )
            return
        self.audit.record_act("version promoted", keeper.engine_id, version=judged.version)
        log.info(
            f"Slot {keeper.slot} gets the jobs of {keeper.engine_id}", action="promoted", engine_id=keeper.engine_id
        )

    def retry(self, changed: set[Path]) -> None:
        """Start at once what waits to be tried again, where files of its engine have changed."""
        for keeper in self._keepers.values():
            if any(path.is_relative_to(self.context.home.engines / keeper.engine_id) for path in changed):
                keeper.retry()

    async def follow_policy(self) -> None:
        """Stop what the operator's policy does not allow any longer, and try what it may allow now."""
        for keeper in list(self._keepers.values()):
            try:
                allowed = await keeper.may_go_on()
            except Exception:  # Any exception: what is known of one engine's image must not end the others.
                log.exception(
                    f"What runs of {keeper.engine_id} goes on, because the policy cannot be asked",
                    action="policy_not_asked",
                    engine_id=keeper.engine_id,
                )
                continue
            if allowed:
                keeper.retry()
            else:
                keeper.start_anew()

    def renewals(self, engine_id: str) -> list[Callable[[], Awaitable[None]]]:
        """Return what gives each slot of an engine new credentials."""
        return [keeper.renew_credentials for keeper in self._keepers.values() if keeper.engine_id == engine_id]

    def restart_replicas(self, asked: list[Path]) -> None:
        """Restart the replicas that runners ask for by files."""
        for path in asked:
            if path.parent.parent == self.context.home.exchange and path.name != PROBLEM_FILE and path.is_file():
                path.unlink(missing_ok=True)
                for keeper in self._keepers.values():
                    keeper.restart_replica(path)
