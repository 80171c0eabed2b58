"""Brings the cluster to what is wanted of one owner: applies what differs, and deletes what is not wanted any longer."""

import asyncio
import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field

import structlog

from enginehouse.contracts.names import SLOTS, Slot, app_id, namespace, tenant_of
from enginehouse.registry.deployer.api import Cluster, ClusterAway, ClusterRefused
from enginehouse.registry.deployer.inventory import Inventory, Seen
from enginehouse.registry.deployer.kinds import (
    DEPLOYMENT,
    NAMESPACE,
    NETWORK_POLICY,
    POD,
    REPLICA_SET,
    SCALED_JOB,
    SCALED_OBJECT,
    Ref,
    in_order,
)
from enginehouse.registry.deployer.wanted import DEPLOYED, Wanted
from enginehouse.registry.kubernetes.labels import ENGINE, NAME, SLOT, runner_name
from enginehouse.registry.kubernetes.parts import Object

log = structlog.get_logger(__name__)

_AT_ONCE = 8
"""Calls of the API server at the same time. A cluster of thousands of engines is applied in minutes, and others go on."""

_UNSUBSCRIBE_SECONDS = 5.0
"""A sidecar has read by then that its topic belongs to another slot. A runner that ends before gets jobs and hands them back."""


@dataclass(slots=True)
class Bringing:
    """Applies and deletes objects, for all owners together not too many at once."""

    cluster: Cluster
    inventory: Inventory
    _written: dict[Ref, tuple[str, str, float]] = field(default_factory=dict)
    """Of what is written and not watched: the hash of its content, the namespace that it was written to, and when."""
    _leaving_since: dict[str, float] = field(default_factory=dict)
    """By the name of a runner: since when its slot gets no jobs any longer."""
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def apply(self, wanted: Wanted, *, but: Collection[Slot] = (), trusting: float = math.inf) -> None:
        """Apply, in order, what the cluster does not have as it is wanted; of the slots in `but`, only what bounds them.

        What is not watched is taken to be there for so many seconds (`trusting`) after it was written. Raise ClusterAway, or ClusterRefused with the reasons of all that was refused.
        """
        refused = []
        for ref in wanted.objects:
            slot = wanted.objects[ref]["metadata"].get("labels", {}).get(SLOT)
            if (slot not in but or ref.kind == NETWORK_POLICY) and not self._is_there(ref, wanted, trusting):
                try:
                    await self._apply(ref, wanted)
                except ClusterRefused as error:
                    refused.append(f"{ref}: {error}")
        if refused:
            raise ClusterRefused("\n".join(refused), 0)

    def _is_there(self, ref: Ref, wanted: Wanted, trusting: float) -> bool:
        if not ref.kind.is_watched:
            *written, when = self._written.get(ref, ("", "", 0.0))
            is_fresh = time.monotonic() - when < trusting
            return is_fresh and written == [wanted.hash_of(ref), self._namespace(ref)]
        seen = self.inventory.found.get(ref)
        return seen is not None and not seen.is_leaving and seen.applied == wanted.hash_of(ref)

    async def _apply(self, ref: Ref, wanted: Wanted) -> None:
        if (seen := self.inventory.found.get(ref)) and seen.is_leaving:
            raise ClusterAway(f"{ref} is still being deleted")
        async with self._turns:
            content = await self.cluster.apply(wanted.objects[ref])
        self.inventory.note(ref.kind, content)
        if not ref.kind.is_watched:
            self._written[ref] = (wanted.hash_of(ref), self._namespace(ref), time.monotonic())
        log.info(f"{ref} is applied", action="object_applied", kind=ref.kind.name, object=ref.name)

    def _namespace(self, ref: Ref) -> str:
        """Return which namespace of this name is there: one that was made anew is empty."""
        seen = self.inventory.found.get(Ref(NAMESPACE, "", ref.namespace))
        return seen.uid if seen else ""

    async def delete(self, ref: Ref) -> None:
        """Delete an object if there is one."""
        self._written.pop(ref, None)
        async with self._turns:
            gone = await self.cluster.delete(ref)
        if gone:
            log.info(f"{ref} is deleted", action="object_deleted", kind=ref.kind.name, object=ref.name)

    async def prune(self, owner: str, wanted: Wanted) -> list[str]:
        """Delete what there is of an owner and is not wanted; return what its going waits for.

        A slot goes in order: what scales it, its runner, which ends the jobs that it has, and then the engine under them.
        """
        stale = self.stale(owner, wanted)
        waits = []
        for slot in SLOTS:
            of_slot = [ref for ref, seen in stale.items() if seen.labels.get(SLOT) == slot]
            if any(ref.kind == DEPLOYMENT and ref.name == runner_name(owner, slot) for ref in wanted.objects):
                self._leaving_since.pop(runner_name(owner, slot), None)
            elif of_slot:
                kept = await self._prune_slot(owner, slot, of_slot)
                waits += [f"jobs in slot {slot} end"] if kept else []
                stale = {ref: seen for ref, seen in stale.items() if ref not in kept}
        for ref in sorted(stale, key=in_order, reverse=True):
            await self.delete(ref)
        return waits

    def stale(self, owner: str, wanted: Wanted) -> dict[Ref, Seen]:
        """Return what there is of an owner, of the kinds that are applied, and is not wanted."""
        return {
            ref: seen
            for ref, seen in self.inventory.of(owner)
            if ref.kind.is_pruned and ref not in wanted.objects and not seen.is_leaving
        }

    async def _prune_slot(self, engine: str, slot: Slot, stale: list[Ref]) -> set[Ref]:
        """Take the next steps with a slot that is to go, and return what must stay until its runner has ended."""
        runner = runner_name(engine, slot)
        has_left = time.monotonic() - self._leaving_since.setdefault(runner, time.monotonic()) > _UNSUBSCRIBE_SECONDS
        for ref in stale:
            # The pods of a ScaledJob go with it, each when its job has ended.
            if ref.kind in (SCALED_OBJECT, SCALED_JOB) or (has_left and ref.kind == DEPLOYMENT and ref.name == runner):
                await self.delete(ref)
        if self.pods(engine, slot, "runner"):
            return set(stale)
        self._leaving_since.pop(runner, None)
        # The engine would wait for jobs that nobody sends any longer.
        await self.kill(engine, slot, ["engine"])
        return {ref for ref in stale if ref.kind == DEPLOYMENT}

    def pods(self, engine: str, slot: Slot, kind: str) -> list[Seen]:
        """Return the pods of a slot: of its engine, or of its runner; those that are ending as well."""
        wanted = {ENGINE: engine, SLOT: slot, NAME: kind}
        return [
            seen for ref, seen in self.inventory.of(engine) if ref.kind == POD and wanted.items() <= seen.labels.items()
        ]

    def has_waiting_pods(self, engine: str) -> bool:
        """Say whether a pod of an engine has not started yet."""
        pods = [seen.content or {} for ref, seen in self.inventory.of(engine) if ref.kind == POD]
        return any(pod.get("status", {}).get("phase") == "Pending" for pod in pods)

    def ending(self, engine: str) -> set[Slot]:
        """Return the slots whose former version still ends, where the next one must not come yet."""
        present = {ref.name for ref, _ in self.inventory.of(engine) if ref.kind in (DEPLOYMENT, SCALED_JOB)}
        return {
            slot
            for slot in SLOTS
            for kind, name in (("runner", runner_name(engine, slot)), ("engine", app_id(engine, slot)))
            if name not in present and self.pods(engine, slot, kind)
        }

    def runs(self, engine: str, slot: Slot, content: str) -> bool:
        """Say whether the version with this content is in a slot already."""
        place, found = namespace(tenant_of(engine)), self.inventory.found
        named = [found.get(Ref(kind, place, app_id(engine, slot))) for kind in (DEPLOYMENT, SCALED_JOB)]
        return any(there and not there.is_leaving and _content(there.content) == content for there in named)

    async def replace(self, engine: str, slot: Slot, wanted: Wanted) -> None:
        """End another version in a slot, whose place the wanted one takes: a runner would send it the jobs of the next one."""
        for name in (runner_name(engine, slot), app_id(engine, slot)):
            ref = Ref(DEPLOYMENT, namespace(tenant_of(engine)), name)
            there, next_one = self.inventory.found.get(ref), wanted.objects.get(ref)
            if there and next_one and not there.is_leaving and _content(there.content) != _content(next_one):
                await self.kill(engine, slot)
                return

    async def kill(self, engine: str, slot: Slot, kinds: Collection[str] = ("runner", "engine")) -> None:
        """End the Deployments of a slot and kill their pods, without time for their jobs.

        Deployment and ReplicaSet go first, and leave the pods to us: they would replace them, or delete them with all
        their time, which cannot be cut short while a hook of theirs runs.
        """
        place = namespace(tenant_of(engine))
        for kind in kinds:
            selector = f"{ENGINE}={engine},{SLOT}={slot},{NAME}={kind}"
            name = runner_name(engine, slot) if kind == "runner" else app_id(engine, slot)
            async with self._turns:
                if kind == "engine":
                    await self.cluster.delete(Ref(SCALED_JOB, place, name))
                await self.cluster.delete(Ref(DEPLOYMENT, place, name), propagationPolicy="Orphan")
                await self.cluster.delete(Ref(REPLICA_SET, place, ""), selector=selector, propagationPolicy="Orphan")
                await self.cluster.delete(Ref(POD, place, ""), selector=selector, gracePeriodSeconds=1)
        log.info(f"The pods of {app_id(engine, slot)} are killed", action="pods_killed", engine_id=engine)


def _content(maker: Object | None) -> str | None:
    annotations: dict[str, str] = (maker or {}).get("metadata", {}).get("annotations", {})
    return annotations.get(DEPLOYED)
