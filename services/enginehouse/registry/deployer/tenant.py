"""Keeps tenants in the cluster as their bundles say, and gives the gateway their files."""

import asyncio
import base64
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import namespace
from enginehouse.registry.bundle import TENANT_FILE, InvalidBundle
from enginehouse.registry.deployer.api import ClusterAway
from enginehouse.registry.deployer.context import Context
from enginehouse.registry.deployer.kinds import NAMESPACE, POD, SECRET, Object, Ref
from enginehouse.registry.deployer.wanted import Wanted, wanted_of_tenant
from enginehouse.registry.kubernetes.labels import NAME, PART_OF, PRODUCT
from enginehouse.registry.tenants import read_tenant, tenant_names

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = (1.0, 60.0)
TENANTS_SECRET, WEBHOOKS_SECRET = "tenants", "webhook-secrets"
_MOUNTED = "enginehouse.dev/mounted"
"""Annotation of the gateway's pods. Whatever changes in a pod makes its kubelet read the Secrets that it mounts anew."""


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
        except (EnginehouseError, OSError) as error:
            said = str(error) or type(error).__name__
            if said != self.problem:
                log.warning(f"{self.tenant}: {said}", action="tenant_not_brought", tenant=self.tenant)
            self.problem = said
            first, most = _AGAIN_SECONDS
            self._failures += 1
            self.on_change()
            wait: float = min(first * 2 ** min(self._failures - 1, 10), most)
            return wait * random.uniform(0.8, 1.2)  # noqa: S311 - a spread
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


@dataclass(slots=True)
class GatewayFiles:
    """The tenants' files as Secrets that the gateway mounts."""

    context: Context
    problem: str | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _given: str = ""

    def wake(self) -> None:
        """Look again: a tenant has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Give the gateway the files whenever one has changed, for ever. What fails is tried again."""
        first, most = _AGAIN_SECONDS
        wait = first
        while True:
            self._wake.clear()
            try:
                await self._give()
                self.problem, wait = None, first
                await self._wake.wait()
            except EnginehouseError as error:
                if self.problem != str(error):
                    log.warning(f"The gateway does not get the tenants' files: {error}", action="tenants_not_given")
                self.problem = str(error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                wait = min(2 * wait, most)

    async def _give(self) -> None:
        files = await asyncio.to_thread(self._read)
        wanted = Wanted.of(self._secret(name, content) for name, content in files.items())
        await self.context.bringing.apply(wanted)
        told = ".".join(wanted.hash_of(ref)[:16] for ref in wanted.objects)
        if told != self._given:
            await self._hurry(told)
            self._given = told

    def _read(self) -> dict[str, dict[str, bytes]]:
        tenants = {
            f"{name}.yaml": path.read_bytes()
            for name in tenant_names(self.context.tenants)
            if (path := self.context.tenants / name / TENANT_FILE).is_file()
        }
        return {TENANTS_SECRET: tenants, WEBHOOKS_SECRET: _files(self.context.webhook_secrets)}

    def _secret(self, name: str, files: dict[str, bytes]) -> Object:
        return {
            "apiVersion": SECRET.api,
            "kind": SECRET.name,
            "metadata": {
                "name": name,
                "namespace": self.context.settings.core_namespace,
                "labels": {PART_OF: PRODUCT},
            },
            "type": "Opaque",
            "data": {file: base64.b64encode(content).decode() for file, content in files.items()},
        }

    async def _hurry(self, told: str) -> None:
        """Make kubelets give the gateway's pods the files now, and not within a minute."""
        cluster, core = self.context.bringing.cluster, self.context.settings.core_namespace
        listed = await cluster.list(POD, f"{NAME}=gateway", core)
        change = {"metadata": {"annotations": {_MOUNTED: told}}}
        await asyncio.gather(*(cluster.merge(Ref(POD, core, pod["metadata"]["name"]), change) for pod in listed.items))


def _files(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        return {}
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
