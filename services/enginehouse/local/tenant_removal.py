"""Removes a tenant's last traces on this machine: its engines, topics, broker user, secrets and files."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enginehouse.broker import redis
from enginehouse.contracts.names import (
    COMPLETIONS_TOPIC,
    DEAD_LETTERS_TOPIC,
    PLATFORM_TENANT,
    finished_topic,
    job_topic,
    requests_component,
    requests_topic,
    tenant_component,
    trial_topic,
)
from enginehouse.local import leftovers
from enginehouse.local.home import KEPT_TENANTS
from enginehouse.local.removals import GatewayState
from enginehouse.local.stack_context import StackContext
from enginehouse.registry.bundle import TENANT_FILE, is_retired
from enginehouse.registry.deploy import remove_engine
from enginehouse.registry.snapshot import only_deployer
from enginehouse.registry.tenants import forget_tenant, is_removed, remove_tenant

_QUIET_SECONDS = 5.0
"""The gateway must have kept nothing for this time: a request that was under way when the keys stopped may still have
written something, which the next sweep finds."""


@dataclass(slots=True)
class TenantRemoval:
    """Waits for a tenant's engines and data to be gone, then deletes what is left of it."""

    context: StackContext
    _gone_since: dict[str, float] = field(default_factory=dict)
    """Since when the gateway has kept nothing of a tenant, in seconds since the epoch."""
    _read: dict[str, tuple[tuple[int, int, int], bool]] = field(default_factory=dict)
    """Of each tenant: the state of its file when it was last read, and whether it said that the tenant is removed."""

    def leaving(self) -> Mapping[str, Path]:
        """Return the bundles of the tenants that are being removed, by name."""
        return {name: bundle for name, bundle in self.context.home.tenant_bundles().items() if self._leaves(name)}

    def _leaves(self, tenant: str) -> bool:
        # Files are read only when they have changed: there may be thousands.
        try:
            status = (self.context.home.tenants / tenant / TENANT_FILE).stat()
        except OSError:
            return False
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._read.get(tenant, (None, False))[0] != seen:
            self._read[tenant] = (seen, is_removed(self.context.home.tenants, tenant))
        return self._read[tenant][1]

    async def go_on(self, name: str, gateway: GatewayState) -> str | None:
        """Take the next step. Return what the removal waits for, or None if nothing is left."""
        if (self.context.home.tenants / name / "gateway").exists():
            # Somebody has only written `removed: true` into its file.
            await asyncio.to_thread(remove_tenant, self.context.home.tenants, name, KEPT_TENANTS)
        if await asyncio.to_thread(self._has_engines, name):
            return "its engines are removed"
        if not await gateway.has_let_go(requests_component(name)):
            return "the gateway's sidecar lets go of its topic"
        data = await gateway.ask(f"/v1/tenants/{name}/data")
        if data is None or not data["removed"] or data["rows"] or data["objects"]:
            self._gone_since.pop(name, None)
            return "the gateway deletes its data" if data and data["removed"] else "the gateway notices"
        gone_since = self._gone_since.setdefault(name, time.time())
        if time.time() < gone_since + _QUIET_SECONDS:
            return "the gateway has deleted its data"
        if waits := await asyncio.to_thread(self._trim_shared_streams, gone_since):
            return f"deliveries on shared topics are acknowledged: {', '.join(waits)}"
        if not await asyncio.to_thread(self._delete, name):
            return "its engines are removed"
        del self._gone_since[name]
        return None

    def _has_engines(self, tenant: str) -> bool:
        bundles = self._engines(tenant)
        for engine_id, bundle in bundles.items():
            if not is_retired(bundle):
                remove_engine(self.context.home.engines, engine_id)
        return bool(bundles)

    def _engines(self, tenant: str) -> dict[str, Path]:
        return {k: v for k, v in self.context.home.engine_bundles().items() if k.startswith(f"{tenant}--")}

    def _trim_shared_streams(self, until: float) -> list[str]:
        """Delete from topics that tenants share what is acknowledged; return those with something older than `until`."""
        shared = [name for name in self.context.home.engine_bundles() if name.startswith(f"{PLATFORM_TENANT}--")]
        topics = [topic(engine_id) for engine_id in shared for topic in (job_topic, trial_topic)]
        oldest = redis.trim_acknowledged(self.context.redis, [COMPLETIONS_TOPIC, DEAD_LETTERS_TOPIC, *topics])
        return [topic for topic, moment in oldest.items() if moment <= until]

    def _delete(self, tenant: str) -> bool:
        """Delete what is left of a tenant; return False if a deployment that was under way has brought an engine."""
        with only_deployer(self.context.home.engines):
            if self._engines(tenant):
                return False
            self._delete_last(tenant)
        return True

    def _delete_last(self, tenant: str) -> None:
        home = self.context.home
        redis.delete(self.context.redis, [requests_topic(tenant), finished_topic(tenant)])
        self.context.broker_users.forget(tenant_component(tenant))
        redis.forget_history(self.context.redis)
        leftovers.delete_objects(home, tenant)
        leftovers.delete_of_systems(home, tenant)
        for path in home.secrets.glob(f"{tenant}--*.json"):
            path.unlink(missing_ok=True)  # A value can be set for an engine that was never deployed.
        forget_tenant(home.tenants, home.webhook_secrets, tenant)
