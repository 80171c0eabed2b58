"""Keeps tenants in the cluster as their bundles say."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from enginehouse.contracts.names import namespace
from enginehouse.registry.bundle import TENANT_FILE, InvalidBundle
from enginehouse.registry.deployer.api import ClusterAway
from enginehouse.registry.deployer.context import Context
from enginehouse.registry.deployer.kinds import NAMESPACE, Ref
from enginehouse.registry.deployer.trouble import said_of, trace_of, wait_after
from enginehouse.registry.deployer.wanted import Wanted, wanted_of_tenant
from enginehouse.registry.tenants import read_tenant

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = (1.0, 60.0)


@dataclass(slots=True)
class TenantKeeper:
    """One tenant, from the moment there is a bundle or an object of it until there is neither."""

    context: Context
    tenant: str
    on_change: Callable[[], None]
    problem: str | None = None
    """Why the cluster could not be brought to what its bundle says."""
    gone: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _failures: int = 0

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
        try:
            await self._follow()
            self.problem, self._failures = None, 0
        except Exception as error:
            said = said_of(error)
            if said != self.problem:
                log.warning(
                    f"{self.tenant}: {said}",
                    action="tenant_not_brought",
                    tenant=self.tenant,
                    exc_info=trace_of(error),
                )
            self.problem = said
            self._failures += 1
            self.on_change()
            return wait_after(self._failures, _AGAIN_SECONDS)
        self.on_change()
        return None

    async def _follow(self) -> None:
        bringing = self.context.bringing
        tenant = await asyncio.to_thread(read_tenant, self.context.tenants, self.tenant)
        place = Ref(NAMESPACE, "", namespace(self.tenant))
        there = bringing.inventory.found.get(place)
        if tenant is None:
            if (self.context.tenants / self.tenant).is_dir():
                raise InvalidBundle(f"{self.context.tenants / self.tenant} has no {TENANT_FILE}")
            await bringing.prune(self.tenant, Wanted.of(()))
            self.gone = not any(True for ref, _ in bringing.inventory.of(self.tenant) if ref != place)
            return
        if tenant.removed and (there is None or there.is_leaving):
            return  # The namespace is the last thing of it in the cluster.
        if there is not None and there.is_leaving:
            raise ClusterAway(f"the former namespace of {self.tenant} is still being deleted")
        wanted = wanted_of_tenant(tenant, self.context.settings_of(self.tenant))
        await bringing.apply(wanted)
        await bringing.prune(self.tenant, wanted)
