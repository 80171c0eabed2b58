"""Keep one engine as its bundle wants it: one change after the other. Report its failures and do not pass them on."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.contracts.names import Slot, app_id
from enginehouse.contracts.problem import problem_text
from enginehouse.local.engine_processes import SlotProcesses
from enginehouse.local.stack_context import StackContext
from enginehouse.local.steps import Steps
from enginehouse.registry.bundle import (
    Workload,
)

log = structlog.get_logger(__name__)

EngineRunState = Literal["starting", "running", "failed", "stopping"]
_LOOK_AGAIN_SECONDS = 1.0
_TRY_AGAIN_SECONDS = 30.0
"""Wait before an environment that could not be made is tried again: perhaps the network was away."""
_LOAD_SECONDS = 600
"""A model may take this long to load. After that its engine counts as failed."""


class EngineKeeper:
    """One slot of an engine, from the moment a version in it is to run until it is not any longer."""

    def __init__(
        self,
        context: StackContext,
        engine_id: str,
        slot: Slot,
        bundle: Path,
        on_change: Callable[["EngineKeeper"], None],
        on_misdeed: Callable[["EngineKeeper", Misdeed, int], None],
    ) -> None:
        """Call `on_misdeed` with what the version was seen doing, and how often since the last call."""
        self.engine_id = engine_id
        self.slot: Slot = slot
        self.state: EngineRunState = "starting"
        self.problem: str | None = None
        """Why it does not work, in the words that the gateway gets as well."""
        self._doing: str | None = None
        """What its start waits for."""
        self.is_judged = False
        """Whether the version has been sent its own examples since its processes were started."""
        self.rejected: str | None = None
        """Which of its own examples the version does not answer, although it runs: one on trial does not become active."""
        self.settled = asyncio.Event()
        """Set while it is running or has failed; cleared while it changes."""
        self._context = context
        self._step = f"engine {app_id(engine_id, slot)}"
        self._bundle = bundle
        self._on_change = on_change
        self._on_misdeed = on_misdeed
        self._wanted: str | None = None
        self._finishes_jobs = False
        self._running: str | None = None
        self._was_up = False
        self._reported = Counter[Misdeed]()
        self._again = asyncio.Event()
        """Set when a start that failed may be tried again."""
        self._changed = asyncio.Event()
        self._app: SlotProcesses | None = None
        self.task = asyncio.create_task(self._keep(), name=f"keep {app_id(engine_id, slot)}")

    def want(self, wanted: str | None, *, finish_jobs: bool = False) -> None:
        """Run the version as of this fingerprint. None: stop it, once its jobs have ended if so asked; then `task` ends."""
        if wanted is None and not finish_jobs and self.state == "stopping" and self._app:
            self._app.hurry()
        if wanted != self._wanted:
            self._wanted, self._finishes_jobs = wanted, finish_jobs
            self.settled.clear()
            self._changed.set()

    def kill(self) -> None:
        """Stop the version at once, without time for its jobs. Then `task` ends."""
        self._wanted, self._finishes_jobs = None, False
        self.settled.clear()
        self._changed.set()
        if self._app:
            self._app.kill()

    def retry(self) -> None:
        """Start waiting processes at once, because a file of the bundle has changed and may have fixed the problem."""
        self._again.set()
        if self._app:
            self._app.retry()

    async def may_go_on(self) -> bool:
        """Return whether the operator's policy allows what runs, or nothing runs that it has allowed."""
        return self._app is None or await self._app.may_go_on()

    def start_anew(self) -> None:
        """Stop the version and start it again: its start says why it may not run, and waits until it may."""
        self.settled.clear()
        self._changed.set()

    @property
    def version(self) -> str | None:
        """Return the version that runs; None before it was read."""
        return self._app.workload.version if self._app and self._app.workload else None

    async def renew_credentials(self) -> None:
        """Start the runner and its sidecar anew with new credentials. Raise StartFailed if they do not get well."""
        if self._app:
            await self._app.renew_credentials()

    def restart_replica(self, asked: Path) -> None:
        """Restart a replica that hangs, because its runner asked for it."""
        if self._app:
            self._app.restart_replica(asked)

    async def _keep(self) -> None:
        await self._changed.wait()
        while self._wanted is not None:
            self._changed.clear()
            self._running = self._wanted
            self._app = SlotProcesses(self._context, self.engine_id, self.slot, self._bundle)
            living = asyncio.create_task(self._live(self._app))
            await self._changed.wait()
            living.cancel()
            await asyncio.wait([living])
            self._set("stopping")
            await self._app.stop(finish_jobs=self._finishes_jobs)
        self.settled.set()

    async def _live(self, app: SlotProcesses) -> None:
        """Start the engine and follow its health. Its processes are started again and again, so it can come up late."""
        self._was_up, self.is_judged, self.rejected = False, False, None
        self._reported = Counter()
        self._set("starting")
        self._context.steps.update(self._step, f"starting {self.engine_id}")
        while not await self._start(app):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TRY_AGAIN_SECONDS):
                    await self._again.wait()
        self._set("starting")
        loading_until = time.monotonic() + _LOAD_SECONDS
        while True:
            await self._look(app, loading_until)

    async def _start(self, app: SlotProcesses) -> bool:
        self._again.clear()
        try:
            await app.start(_NotedSteps(self._context.steps, self._note_step))
        except Exception as error:  # Any exception: an engine's failure must not reach the others.
            self._fails(str(error))
            return False
        finally:
            self._doing = None
        self._tell(None)
        return True

    async def _look(self, app: SlotProcesses, loading_until: float) -> None:
        """See how the engine is, for about a second."""
        self._report(await app.misdeeds())
        if problem := await app.problem():
            self._fails(problem)
        elif self.state == "running":
            if problem := await app.runners_problem():
                self._fails(problem, told_by_runner=True)
        elif await app.wait_healthy(_LOOK_AGAIN_SECONDS):
            self._runs()
            return
        else:
            self._waits(await app.runners_problem(), is_late=time.monotonic() > loading_until)
            return
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _report(self, counted: Counter[Misdeed]) -> None:
        for misdeed, times in (counted - self._reported).items():
            self._on_misdeed(self, misdeed, times)
        self._reported = counted

    def _note_step(self, text: str) -> None:
        if self._doing is None and self.state == "starting":
            self._tell("Its environment is being made.")
        self._doing = text
        self._on_change(self)

    def _waits(self, found: str | None, *, is_late: bool) -> None:
        """Note what an engine that is not up yet waits for, according to its runners."""
        if found and (self._was_up or is_late):
            self._fails(found, told_by_runner=True)
        elif is_late and not self._was_up:
            self._fails(f"It is not healthy after {_LOAD_SECONDS} s.")
        elif (self.state, self.problem) != ("starting", found):
            self._context.steps.update(self._step, f"starting {self.engine_id}. {found or ''}")
            self._tell(None)
            self._set("starting", found)

    def _runs(self) -> None:
        self._was_up = True
        self._tell(None)
        self._set("running")
        self._context.steps.finish(self._step, f"{self.engine_id} is running")
        self.settled.set()

    def _fails(self, problem: str, *, told_by_runner: bool = False) -> None:
        problem = problem_text(problem)
        if (self.state, self.problem) == ("failed", problem):
            return
        if self.state != "failed":
            log.error(f"Engine {self.engine_id} failed: {problem}", action="engine_failed", engine_id=self.engine_id)
            self._context.steps.finish(self._step, f"{self.engine_id} failed: {problem.splitlines()[0]}", ok=False)
        if not told_by_runner:
            self._tell(problem)
        self._set("failed", problem)
        self.settled.set()

    def _tell(self, problem: str | None) -> None:
        if self._app:
            self._app.tell(problem)

    def _set(self, state: EngineRunState, problem: str | None = None) -> None:
        self.state, self.problem = state, problem
        self._on_change(self)

    def begin_to_judge(self) -> Coroutine[Any, Any, Workload | None]:
        """Say that the version's own examples are tried, and return what tries them.

        That returns the version if it answers them. If not, `rejected` says which and why.
        """
        assert self._app
        self.is_judged, self._doing = True, "trying its own examples"
        return self._judge(self._app)

    async def _judge(self, app: SlotProcesses) -> Workload | None:
        try:
            wrong = await app.wrong_example()
        except Exception as error:  # Whatever an example or an answer is, the author is told.
            wrong = f"Its own examples cannot be tried: {type(error).__name__}: {error}"
        if self._app is not app:
            return None  # Another version is in this slot by now.
        self._doing = None
        if wrong:
            self.rejected = problem_text(wrong)
            self._tell(self.rejected)
            self._context.steps.finish(self._step, f"{self.engine_id}: {self.rejected}", ok=False)
        self._on_change(self)
        return None if wrong else app.workload

    def shown(self) -> dict[str, str | None]:
        """Return what `run/state.json` says about the engine. `deployed` is the fingerprint of what runs now."""
        return {
            "state": self.state,
            "slot": self.slot,
            "problem": self.rejected or self.problem,
            "doing": self._doing,
            "deployed": self._running,
        }


@dataclass(frozen=True, slots=True)
class _NotedSteps:
    """Passes steps on, and notes their texts."""

    steps: Steps
    note: Callable[[str], None]

    def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
        """Show that step `key` is doing `text`."""
        self.note(text)
        self.steps.update(key, text, done, total)

    def finish(self, key: str, text: str, ok: bool = True) -> None:
        """Show that step `key` is over."""
        self.steps.finish(key, text, ok)
