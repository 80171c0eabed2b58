"""Keep one engine as its bundle wants it: one change after the other. Report its failures and do not pass them on."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog

from enginehouse.local.engine_processes import EngineProcesses
from enginehouse.local.stack_context import StackContext
from enginehouse.registry.bundle import ENGINE_FILE, WORKLOADS_FILE

log = structlog.get_logger(__name__)

EngineRunState = Literal["starting", "running", "failed", "stopping"]
_LOOK_AGAIN_SECONDS = 1.0


def fingerprint(bundle: Path) -> str:
    """Return a hash that changes when the engine's processes must restart. daprd itself reloads Dapr objects."""
    digest = hashlib.sha256()
    for name in (ENGINE_FILE, WORKLOADS_FILE):
        try:
            digest.update((bundle / name).read_bytes())
        except OSError as error:
            digest.update(str(error.errno).encode())
        digest.update(b"\0")
    return digest.hexdigest()


class EngineKeeper:
    """One engine of a home, from the moment its bundle appears until it is gone."""

    def __init__(self, context: StackContext, engine_id: str, bundle: Path, on_change: Callable[[], None]) -> None:
        self.engine_id = engine_id
        self.state: EngineRunState = "starting"
        self.problem: str | None = None
        self.settled = asyncio.Event()
        """Set while it is running or has failed; cleared while it changes."""
        self._context = context
        self._step = f"engine {engine_id}"
        self._bundle = bundle
        self._on_change = on_change
        self._wanted: str | None = None
        self._changed = asyncio.Event()
        self._app: EngineProcesses | None = None
        self.task = asyncio.create_task(self._keep(), name=f"keep {engine_id}")

    def want(self, wanted: str | None) -> None:
        """Run the engine as of this fingerprint. None: stop it; then `task` ends."""
        if wanted != self._wanted:
            self._wanted = wanted
            self.settled.clear()
            self._changed.set()

    def retry(self) -> None:
        """Start waiting processes at once, because a file of the bundle has changed and may have fixed the problem."""
        if self._app:
            self._app.retry()

    def restart_replica(self, asked: Path) -> None:
        """Restart a replica that hangs, because its runner asked for it."""
        if self._app:
            self._app.restart_replica(asked)

    async def _keep(self) -> None:
        await self._changed.wait()
        while self._wanted is not None:
            self._changed.clear()
            self._app = EngineProcesses(self._context, self.engine_id, self._bundle)
            living = asyncio.create_task(self._live(self._app))
            await self._changed.wait()
            living.cancel()
            await asyncio.wait([living])
            self._set("stopping")
            await self._app.stop()
        self.settled.set()

    async def _live(self, app: EngineProcesses) -> None:
        self._set("starting")
        self._context.steps.update(self._step, f"starting {self.engine_id}")
        try:
            await app.start()
            self._runs()
        except Exception as error:  # Any exception: an engine's failure must not reach the others.
            self._fails(str(error))
        # The processes are started again and again, so the engine can still come up late or repaired, and can fail
        # later.
        while True:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            problem = await app.problem()
            if problem and problem != self.problem:
                self._fails(problem)
            elif not problem and self.state == "failed" and await app.healthy():
                self._runs()

    def _runs(self) -> None:
        self._set("running")
        self._context.steps.finish(self._step, f"{self.engine_id} is running")
        self.settled.set()

    def _fails(self, problem: str) -> None:
        if self.state != "failed":
            log.error(f"Engine {self.engine_id} failed: {problem}", action="engine_failed", engine_id=self.engine_id)
            self._context.steps.finish(self._step, f"{self.engine_id} failed: {problem.splitlines()[0]}", ok=False)
        self._set("failed", problem)
        self.settled.set()

    def _set(self, state: EngineRunState, problem: str | None = None) -> None:
        self.state, self.problem = state, problem
        self._on_change()
