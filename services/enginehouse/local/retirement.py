"""Ends what is left of engines that are being removed, once nothing needs it any longer.

The bundle is the only memory of a removal, and is deleted last: whatever is killed meanwhile, the next start goes on.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import app_ids, job_topic, results_component, trial_topic
from enginehouse.local import leftovers, redis
from enginehouse.local.stack_context import StackContext
from enginehouse.registry.bundle import RESULTS_FILE, is_retired
from enginehouse.registry.deploy import forget_engine
from enginehouse.sidecar.dapr import DaprSidecar

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5


@dataclass(slots=True)
class Retirement:
    """Follows the engines of a running stack that are being removed."""

    context: StackContext
    url: str
    """The gateway, which is asked whether it still needs an engine."""
    gateway_sidecar: DaprSidecar
    runs: Callable[[str], bool]
    """Says whether processes of an engine still run."""
    on_change: Callable[[], None]
    """Called when what a removal waits for has changed."""
    waits_for: dict[str, str] = field(default_factory=dict)
    """What the removal of each engine waits for."""

    async def run(self) -> None:
        """Look again and again, for ever. What fails is tried again."""
        await self.gateway_sidecar.start()
        try:
            async with httpx2.AsyncClient(timeout=5, trust_env=False) as http:
                while True:
                    await self._look(http)
                    await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await self.gateway_sidecar.close()

    async def _look(self, http: httpx2.AsyncClient) -> None:
        retired = {name: bundle for name, bundle in self.context.home.engine_bundles().items() if is_retired(bundle)}
        now = {}
        for engine_id, bundle in retired.items():
            try:
                why = await self._finish(http, engine_id, bundle)
            except (EnginehouseError, OSError, httpx2.HTTPError) as error:
                why = str(error) or type(error).__name__
            if why is None:
                log.info(f"Nothing is left of {engine_id}", action="engine_forgotten", engine_id=engine_id)
            else:
                now[engine_id] = why
        if now != self.waits_for:
            self.waits_for = now
            self.on_change()

    async def _finish(self, http: httpx2.AsyncClient, engine_id: str, bundle: Path) -> str | None:
        """Take the next step of a removal. Return what it waits for, or None if nothing is left of the engine."""
        if unfinished := await self._unfinished_jobs(http, engine_id):
            return unfinished
        if self.runs(engine_id):
            return "its processes stop"
        # From here on nobody reads or writes its store.
        (bundle / RESULTS_FILE).unlink(missing_ok=True)
        if results_component(engine_id) in (await self.gateway_sidecar.metadata()).components:
            return "the gateway's sidecar lets go of its store"
        await asyncio.to_thread(self._delete, engine_id)
        return None

    async def _unfinished_jobs(self, http: httpx2.AsyncClient, engine_id: str) -> str | None:
        """Say what of its jobs the gateway still has to end; None if it needs the engine no longer."""
        access = self.context.home.read_local()
        answer = await http.get(
            f"{self.url}/v1/engines/{engine_id}", headers={"authorization": f"Bearer {access.get('api_key', '')}"}
        )
        if answer.status_code == 404:
            return None  # The gateway has never known it, so it never had a job.
        if answer.status_code != 200:
            return f"the gateway answers {answer.status_code}"
        view = answer.json()
        if view["state"] != "retired":
            return "the gateway notices"
        left = sum(view["queue"]["jobs"][status] for status in ("queued", "running"))
        return f"{left} jobs end" if left else None

    def _delete(self, engine_id: str) -> None:
        redis.delete(self.context.redis, [job_topic(engine_id), trial_topic(engine_id)], prefix=f"{engine_id}||")
        for app in app_ids(engine_id):
            leftovers.delete_of_app(self.context.home, app)
        forget_engine(self.context.home.engines, engine_id)
