"""Ends what is left of engines and tenants that are being removed, once nothing needs it any longer.

The bundle is the only memory of a removal, and is deleted last: whatever is killed meanwhile, the next start goes on.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import structlog

from enginehouse.broker import redis
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.names import (
    COMPLETIONS_TOPIC,
    DEAD_LETTERS_TOPIC,
    PLATFORM_TENANT,
    EngineId,
    engine_user,
    finished_topic,
    is_engine_id,
    job_topic,
    namespace,
    requests_topic,
    results_component,
    tenant_component,
    trial_topic,
)
from enginehouse.registry.bundle import is_retired
from enginehouse.registry.deploy import forget_engine, remove_engine
from enginehouse.registry.deployer.context import Context
from enginehouse.registry.deployer.engine import EngineKeeper
from enginehouse.registry.deployer.gateway_files import GatewayFiles
from enginehouse.registry.deployer.kinds import NAMESPACE, POD, Ref
from enginehouse.registry.deployer.trouble import said_of, trace_of
from enginehouse.registry.secrets import secrets_file
from enginehouse.registry.snapshot import only_deployer
from enginehouse.registry.tenants import forget_tenant, is_removed, remove_tenant, tenant_names

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0
_LET_GO_SECONDS = 10.0
"""More than the gateway's sidecars take to see that a component is gone, and to close its connections."""
_QUIET_SECONDS = 5.0
"""The gateway must have kept nothing of a tenant for this time: a request under way may still have written something."""


@dataclass(slots=True)
class Removals:
    """Follows the removals in a home."""

    context: Context
    kept: Collection[str]
    """Tenants that cannot be removed."""
    keeper_of: Callable[[str], EngineKeeper | None]
    on_change: Callable[[], None]
    gateway_files: GatewayFiles
    waits_for: dict[str, str] = field(default_factory=dict)
    """What each removal waits for."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _since: dict[str, float] = field(default_factory=dict)
    """Since when the last thing that a removal waits for is so."""

    def wake(self) -> None:
        """Look again: a file has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Look while anything is being removed, for ever. What fails is tried again."""
        while True:
            self._wake.clear()
            now: dict[str, str] = {}
            for name, step in [
                *((name, self._engine) for name in await asyncio.to_thread(self._engines)),
                *((name, self._tenant) for name in await asyncio.to_thread(self._tenants)),
            ]:
                try:
                    why = await step(name)
                except Exception as error:
                    why = said_of(error)
                    if why != self.waits_for.get(name) and (trace := trace_of(error)):
                        log.error(f"{name} is not removed: {why}", action="removal_failed", exc_info=trace)
                if why is None:
                    self._since.pop(name, None)
                    log.info(f"Nothing is left of {name}", action="removed", removed=name)
                else:
                    now[name] = why
            if now != self.waits_for:
                self.waits_for = now
                self.on_change()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS if now else None):
                    await self._wake.wait()

    def _engines(self) -> list[str]:
        bundles = [path for path in self.context.engines.iterdir() if is_engine_id(path.name)]
        return sorted(path.name for path in bundles if is_retired(path))

    def _tenants(self) -> list[str]:
        return [name for name in tenant_names(self.context.tenants) if is_removed(self.context.tenants, name)]

    async def _engine(self, engine: str) -> str | None:
        """Take the next step of an engine's removal. Return what it waits for, or None if nothing is left."""
        if unfinished := await self._unfinished_jobs(engine):
            return unfinished
        inventory = self.context.bringing.inventory
        if any(ref.kind == POD for ref, _ in inventory.of(engine)):
            return "its pods end"
        keeper = self.keeper_of(engine)
        if keeper is None:
            return "it is looked at"
        # From here on nobody reads or writes its store.
        store = results_component(engine)
        if store not in keeper.without:
            keeper.without.add(store)
            keeper.wake()
        if not keeper.leaves and any(ref.name == store for ref, _ in inventory.of(engine)):
            self._since.pop(engine, None)
            return "its store is taken from the gateway"
        if time.monotonic() < self._since.setdefault(engine, time.monotonic()) + _LET_GO_SECONDS:
            return "the gateway's sidecars let go of its store"
        if not keeper.has_left:
            keeper.leaves = True
            keeper.wake()
            return "the last of it in the cluster is deleted"
        await asyncio.to_thread(self._delete_engine, engine)
        keeper.wake()
        return None

    async def _unfinished_jobs(self, engine: str) -> str | None:
        view = await self.context.gateway.ask(f"/v1/engines/{engine}")
        if view is None:
            # The gateway has never known it, so it never had a job. Only an operator is told so for sure.
            await self.context.gateway.ask(f"/v1/tenants/{EngineId.parse(engine).tenant}/data")
            return None
        if view["state"] != "retired":
            return "the gateway notices"
        left = sum(view["queue"]["jobs"][status] for status in ("queued", "running"))
        return f"{left} jobs end" if left else None

    def _delete_engine(self, engine: str) -> None:
        redis.delete(self.context.users.address, [job_topic(engine), trial_topic(engine)], prefix=f"{engine}||")
        self.context.users.forget(engine_user(engine))
        self.context.credentials.forget(engine)
        secrets_file(self.context.credentials.home, engine).unlink(missing_ok=True)
        forget_engine(self.context.engines, engine)

    async def _tenant(self, tenant: str) -> str | None:
        """Take the next step of a tenant's removal. Return what it waits for, or None if nothing is left."""
        if (self.context.tenants / tenant / "gateway").exists():
            # Somebody has only written `removed: true` into its file.
            await asyncio.to_thread(remove_tenant, self.context.tenants, tenant, self.kept)
        if await asyncio.to_thread(self._has_engines, tenant):
            return "its engines are removed"
        data = await self.context.gateway.ask(f"/v1/tenants/{tenant}/data")
        if data is None:
            raise Unavailable("the gateway does not say what it keeps of it")
        if not data["removed"] or data["rows"] or data["objects"]:
            self._since.pop(tenant, None)
            return "the gateway deletes its data" if data["removed"] else "the gateway notices"
        since = self._since.setdefault(tenant, time.time())
        if time.time() < since + _QUIET_SECONDS:
            return "the gateway has deleted its data"
        if waits := await asyncio.to_thread(self._trim_shared_streams, since):
            return f"deliveries on shared topics are acknowledged: {', '.join(waits)}"
        place = Ref(NAMESPACE, "", namespace(tenant))
        if (seen := self.context.bringing.inventory.found.get(place)) is not None:
            if not seen.is_leaving:
                await self.context.bringing.delete(place)
            return "its namespace is deleted"
        await self.gateway_files.forget(tenant)
        if not await asyncio.to_thread(self._delete_tenant, tenant):
            self.gateway_files.remember(tenant)
            return "its engines are removed"
        return None

    def _has_engines(self, tenant: str) -> bool:
        found = [path for path in self.context.engines.glob(f"{tenant}--*") if is_engine_id(path.name)]
        for bundle in found:
            if not is_retired(bundle):
                remove_engine(self.context.engines, bundle.name)
        return bool(found)

    def _trim_shared_streams(self, until: float) -> list[str]:
        """Delete from topics that tenants share what is acknowledged; return those with something older than `until`."""
        shared = [path.name for path in self.context.engines.glob(f"{PLATFORM_TENANT}--*") if is_engine_id(path.name)]
        topics = [topic(engine) for engine in shared for topic in (job_topic, trial_topic)]
        oldest = redis.trim_acknowledged(self.context.users.address, [COMPLETIONS_TOPIC, DEAD_LETTERS_TOPIC, *topics])
        return [topic for topic, moment in oldest.items() if moment <= until]

    def _delete_tenant(self, tenant: str) -> bool:
        """Delete what is left of a tenant; return False if a deployment that was under way has brought an engine."""
        with only_deployer(self.context.engines):
            if any(is_engine_id(path.name) for path in self.context.engines.glob(f"{tenant}--*")):
                return False
            address = self.context.users.address
            redis.delete(address, [requests_topic(tenant), finished_topic(tenant)])
            self.context.users.forget(tenant_component(tenant))
            redis.forget_history(address)
            for path in (self.context.credentials.home / "secrets").glob(f"{tenant}--*.json"):
                path.unlink(missing_ok=True)  # A value can be set for an engine that was never deployed.
            forget_tenant(self.context.tenants, self.context.webhook_secrets, tenant)
        return True
