"""Lets a version take over only when it is as large as the one before: jobs would wait for what was thrown away."""

import time
from dataclasses import dataclass

import structlog

from enginehouse.contracts.names import SLOTS, Slot, app_id, namespace, tenant_of
from enginehouse.registry.deployer.bring import Bringing
from enginehouse.registry.deployer.inventory import Seen
from enginehouse.registry.deployer.kinds import DEPLOYMENT, SCALED_OBJECT, SUBSCRIPTION, Ref
from enginehouse.registry.deployer.wanted import Wanted

log = structlog.get_logger(__name__)

_GROW_SECONDS = 600.0
"""A version that is not as large by then takes over all the same: the cluster may have no room for both."""


@dataclass(slots=True)
class Takeover:
    """An engine's active slot, and the one before that still has its jobs."""

    bringing: Bringing
    engine: str
    _serves: Slot | None = None
    """The slot that has taken over."""
    _since: float = 0.0
    """Since when the next one grows; 0: none does."""

    async def waits_for(self, active: Slot | None, wanted: Wanted, most: int) -> str | None:
        """Let the active slot grow to as many replicas as the one before has ready now, at most `most`.

        Return what is still to be waited for; None once it may take over, or has.
        """
        if active is None or active == self._serves:
            return None
        size, ready = min(self._ready(_other(active)), most), self._ready(active)
        late = self._since and time.monotonic() > self._since + _GROW_SECONDS
        ref = self._ref(active)
        if ref not in wanted.objects or self._ref(_other(active)) in wanted.objects or ready >= size or late:
            if late and ready < size:
                log.warning(
                    f"Slot {active} of {self.engine} takes over with {ready} replicas ready, and the one before had {size}",
                    action="taken_over_small",
                    engine_id=self.engine,
                )
            self._serves, self._since = active, 0.0
            return None
        self._since = self._since or time.monotonic()
        await self._grow(ref, wanted, size)
        return f"{ready} of {size} replicas are ready, as many as the version before has, which goes on until then"

    async def _grow(self, ref: Ref, wanted: Wanted, size: int) -> None:
        """Set the number of replicas. An apply that no longer says how many leaves it alone then: it was set by a change."""
        there = self._seen(ref)
        if there is None or there.content is None or "replicas" in wanted.objects[ref]["spec"]:
            return
        if there.content["spec"].get("replicas", 1) < size:
            await self.bringing.cluster.merge(ref, {"spec": {"replicas": size}})

    def _ready(self, slot: Slot) -> int:
        seen = self._seen(self._ref(slot))
        found: int = ((seen and seen.content) or {}).get("status", {}).get("availableReplicas", 0)
        return found

    def _seen(self, ref: Ref) -> Seen | None:
        seen = self.bringing.inventory.found.get(ref)
        return None if seen is None or seen.is_leaving else seen

    def _ref(self, slot: Slot) -> Ref:
        return Ref(DEPLOYMENT, namespace(tenant_of(self.engine)), app_id(self.engine, slot))


def before_takeover(wanted: Wanted) -> Wanted:
    """Return what is wanted but for what moves the jobs, and what would shrink the next version."""
    return Wanted({ref: item for ref, item in wanted.objects.items() if ref.kind not in (SUBSCRIPTION, SCALED_OBJECT)})


def _other(slot: Slot) -> Slot:
    return next(other for other in SLOTS if other != slot)
