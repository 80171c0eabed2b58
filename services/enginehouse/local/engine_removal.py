"""Removes an engine's last traces on this machine: its topics, keys, secrets, files and logs."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from enginehouse.broker import redis
from enginehouse.contracts.names import EngineId, app_ids, engine_user, job_topic, results_component, trial_topic
from enginehouse.local import leftovers
from enginehouse.local.removals import GatewayState
from enginehouse.local.stack_context import StackContext
from enginehouse.registry.bundle import RESULTS_FILE, is_retired
from enginehouse.registry.deploy import forget_engine
from enginehouse.registry.secrets import secrets_file


@dataclass(frozen=True, slots=True)
class EngineRemoval:
    """Waits for an engine's jobs and processes to end, then deletes what is left of it."""

    context: StackContext
    runs: Callable[[str], bool]
    """Says whether processes of an engine still run."""

    def leaving(self) -> Mapping[str, Path]:
        """Return the bundles of the engines that are being removed, by id."""
        return {name: bundle for name, bundle in self.context.home.engine_bundles().items() if is_retired(bundle)}

    async def go_on(self, name: str, gateway: GatewayState) -> str | None:
        """Take the next step. Return what the removal waits for, or None if nothing is left."""
        if unfinished := await self._unfinished_jobs(name, gateway):
            return unfinished
        if self.runs(name):
            return "its processes stop"
        # From here on nobody reads or writes its store.
        (self.context.home.engines / name / RESULTS_FILE).unlink(missing_ok=True)
        if not await gateway.has_let_go(results_component(name)):
            return "the gateway's sidecar lets go of its store"
        await asyncio.to_thread(self._delete, name)
        if fleet := self.context.fleet:
            for app in app_ids(name):
                await fleet.kept.forget(app)
        return None

    @staticmethod
    async def _unfinished_jobs(engine_id: str, gateway: GatewayState) -> str | None:
        """Say what of its jobs the gateway still has to end; None if it needs the engine no longer."""
        view = await gateway.ask(f"/v1/engines/{engine_id}")
        if view is None:
            # The gateway has never known it, so it never had a job. Only an operator is told so for sure.
            await gateway.ask(f"/v1/tenants/{EngineId.parse(engine_id).tenant}/data")
            return None
        if view["state"] != "retired":
            return "the gateway notices"
        left = sum(view["queue"]["jobs"][status] for status in ("queued", "running"))
        return f"{left} jobs end" if left else None

    def _delete(self, engine_id: str) -> None:
        redis.delete(self.context.redis, [job_topic(engine_id), trial_topic(engine_id)], prefix=f"{engine_id}||")
        self.context.broker_users.forget(engine_user(engine_id))
        for app in app_ids(engine_id):
            leftovers.delete_of_app(self.context.home, app)
        secrets_file(self.context.home.path, engine_id).unlink(missing_ok=True)
        forget_engine(self.context.home.engines, engine_id)
