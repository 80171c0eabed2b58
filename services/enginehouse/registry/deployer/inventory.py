"""Knows what the cluster has of the objects that the deployer applies, and says when that changes."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from enginehouse.contracts.names import namespace
from enginehouse.registry.deployer.api import Cluster, ClusterRefused, TooOld
from enginehouse.registry.deployer.kinds import DEPLOYMENT, NAMESPACE, POD, WATCHED, Kind, Ref
from enginehouse.registry.deployer.trouble import said_of, trace_of
from enginehouse.registry.kubernetes.labels import ENGINE, PART_OF, PRODUCT, TENANT
from enginehouse.registry.kubernetes.parts import Object

log = structlog.get_logger(__name__)

OURS = f"{PART_OF}={PRODUCT},{TENANT}"
"""Everything that belongs to a tenant."""
APPLIED = "enginehouse.dev/applied"
"""Annotation with the hash of what was applied."""
_AGAIN_SECONDS = (0.5, 30.0)
"""Wait before a watch that failed begins again: at first, and at most."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one object."""

    labels: dict[str, str]
    applied: str | None
    """Hash of what was applied last."""
    uid: str
    is_leaving: bool
    """Whether it is being deleted."""
    content: Object | None
    """All of it, of the kinds that are needed whole."""

    @classmethod
    def of(cls, content: Object, kind: Kind) -> "Seen":
        """Keep what is needed of an object."""
        metadata = content["metadata"]
        return cls(
            metadata.get("labels") or {},
            (metadata.get("annotations") or {}).get(APPLIED),
            metadata["uid"],
            "deletionTimestamp" in metadata,
            _slim(content) if kind.is_whole else None,
        )


def _slim(content: Object) -> Object:
    metadata = {name: value for name, value in content["metadata"].items() if name != "managedFields"}
    return {**content, "metadata": metadata}


@dataclass(slots=True)
class Inventory:
    """What the cluster has, kept up to date by watches. One for each kind."""

    cluster: Cluster
    core_namespace: str
    """Where the gateway's part of engines and tenants is."""
    on_change: Callable[[str, str | None], None]
    """Told the tenant, and the engine if it is one's, of an object that has changed."""
    found: dict[Ref, Seen] = field(default_factory=dict)
    _by_owner: dict[str, set[Ref]] = field(default_factory=dict)
    """By engine id; by tenant for what belongs to no engine."""
    _listed: set[Kind] = field(default_factory=set)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when all kinds have been listed once."""
    problems: dict[Kind, str] = field(default_factory=dict)
    """Why kinds cannot be watched now."""

    def forget(self) -> None:
        """Know nothing, as before the first listing."""
        self.found.clear()
        self._by_owner.clear()
        self._listed.clear()
        self.complete.clear()

    async def run(self) -> None:
        """Watch, for ever."""
        async with asyncio.TaskGroup() as watches:
            for kind in WATCHED:
                watches.create_task(self._follow(kind))

    def of(self, owner: str) -> Iterator[tuple[Ref, Seen]]:
        """Return what there is of an engine, or of a tenant without its engines."""
        for ref in sorted(self._by_owner.get(owner, ()), key=str):
            yield ref, self.found[ref]

    def note(self, kind: Kind, content: Object) -> None:
        """Take over what the API server has answered, before a watch tells it."""
        if kind.is_watched:
            self._put(kind, content)

    async def _follow(self, kind: Kind) -> None:
        shortest, longest = _AGAIN_SECONDS
        wait = shortest
        while True:
            try:
                version = await self._list(kind)
                wait = shortest
                await self._watch(kind, version)
            except TooOld:
                continue
            except Exception as error:
                said = said_of(error)
                if self.problems.get(kind) != said:
                    log.warning(
                        f"{kind.plural} cannot be watched: {said}",
                        action="watch_failed",
                        kind=kind.name,
                        exc_info=trace_of(error),
                    )
                self.problems[kind] = said
                # A kind that this cluster does not have may be installed later: it is no hurry.
                refused = isinstance(error, ClusterRefused)
                if refused:
                    self._note_listed(kind)
                await asyncio.sleep(longest if refused else wait * random.uniform(0.8, 1.2))  # noqa: S311 - a spread
                wait = min(2 * wait, longest)

    async def _list(self, kind: Kind) -> str:
        listed = await self.cluster.list(kind, OURS)
        self.problems.pop(kind, None)
        now = {_ref(kind, item): item for item in listed.items}
        for ref in [ref for ref in self.found if ref.kind == kind and ref not in now]:
            self._drop(ref)
        for item in now.values():
            self._put(kind, item)
        self._note_listed(kind)
        return listed.resource_version

    def _note_listed(self, kind: Kind) -> None:
        self._listed.add(kind)
        if self._listed.issuperset(WATCHED):
            self.complete.set()

    async def _watch(self, kind: Kind, version: str) -> None:
        """Follow a kind until a watch ends with an error. One that the API server ends begins again where it ended."""
        while True:
            async with aclosing(self.cluster.watch(kind, OURS, version)) as events:
                async for event, content in events:
                    version = content["metadata"]["resourceVersion"]
                    if event == "DELETED":
                        self._drop(_ref(kind, content))
                    elif event in ("ADDED", "MODIFIED"):
                        self._put(kind, content)

    def _put(self, kind: Kind, content: Object) -> None:
        ref, seen = _ref(kind, content), Seen.of(content, kind)
        if not self._is_ours(ref, seen):
            self._drop(ref)
            return
        before = self.found.get(ref)
        if before == seen:
            return
        if before is not None:
            self._forget(ref, before)
        self.found[ref] = seen
        self._by_owner.setdefault(_owner(seen), set()).add(ref)
        self._tell(seen)

    def _is_ours(self, ref: Ref, seen: Seen) -> bool:
        """Say whether an object is where its labels say. Whoever gives another one our labels has not made it ours."""
        tenant, engine = seen.labels.get(TENANT, ""), seen.labels.get(ENGINE)
        if engine is not None and engine.partition("--")[0] != tenant:
            return False
        places = {ref.name} if ref.kind == NAMESPACE else {ref.namespace}
        if ref.kind not in (NAMESPACE, POD, DEPLOYMENT):
            places -= {self.core_namespace}
        return places <= {namespace(tenant)}

    def _drop(self, ref: Ref) -> None:
        if (seen := self.found.pop(ref, None)) is not None:
            self._forget(ref, seen)
            self._tell(seen)

    def _forget(self, ref: Ref, seen: Seen) -> None:
        owner = _owner(seen)
        self._by_owner[owner].discard(ref)
        if not self._by_owner[owner]:
            del self._by_owner[owner]

    def _tell(self, seen: Seen) -> None:
        self.on_change(seen.labels.get(TENANT, ""), seen.labels.get(ENGINE))


def _owner(seen: Seen) -> str:
    return seen.labels.get(ENGINE) or seen.labels.get(TENANT, "")


def _ref(kind: Kind, content: Object) -> Ref:
    metadata = content["metadata"]
    return Ref(kind, metadata.get("namespace", ""), metadata["name"])
