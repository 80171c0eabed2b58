"""A keeper says what an engine waits for and why it does not work, to the state file and to the engine's runners."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.waiting import until_async

from enginehouse.local import engine_keeper
from enginehouse.local.engine_keeper import EngineKeeper
from enginehouse.local.errors import LocalError
from enginehouse.local.steps import SilentSteps, Steps


class _Processes:
    """An engine's processes, in the condition that the test sets."""

    def __init__(self, *_: Any) -> None:
        self.start_fails: str | None = None
        self.making = asyncio.Event()
        self.making.set()
        self.own: str | None = None
        self.found: str | None = None
        self.is_healthy = False
        self.told: list[str | None] = []
        self.starts = 0

    async def start(self, steps: Steps) -> None:
        self.starts += 1
        if not self.making.is_set():
            steps.update("environment", "downloading")
            await self.making.wait()
        if self.start_fails:
            raise LocalError(self.start_fails, "Correct it.")

    async def wait_healthy(self, seconds: float) -> bool:
        await asyncio.sleep(0.01)
        return self.is_healthy

    async def problem(self) -> str | None:
        return self.own

    async def runners_problem(self) -> str | None:
        return self.found

    def tell(self, problem: str | None) -> None:
        self.told.append(problem)

    def retry(self) -> None:
        pass

    async def stop(self, *, finish_jobs: bool) -> None:
        pass


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> _Processes:
    made = _Processes()
    monkeypatch.setattr(engine_keeper, "SlotProcesses", lambda *_: made)
    monkeypatch.setattr(engine_keeper, "_LOOK_AGAIN_SECONDS", 0.01)
    return made


@pytest.fixture
async def keeper(app: _Processes, tmp_path: Path) -> AsyncIterator[EngineKeeper]:
    context: Any = SimpleNamespace(steps=SilentSteps())
    made = EngineKeeper(context, "acme--one", "a", tmp_path, lambda _: None)
    yield made
    made.want(None)
    await asyncio.wait_for(made.task, 5)


async def _until(keeper: EngineKeeper, **shown: Any) -> None:
    await until_async(lambda: shown.items() <= keeper.shown().items(), f"it shows {shown}", 10)


async def test_an_engine_that_starts_shows_what_for_and_tells_its_runners(
    keeper: EngineKeeper, app: _Processes
) -> None:
    app.making.clear()
    keeper.want("one")
    await _until(keeper, state="starting", doing="downloading", deployed="one", problem=None)
    assert app.told == ["Its environment is being made."]
    app.making.set()
    app.found = "After 10 s, nothing listens."
    await _until(keeper, state="starting", doing=None, problem="After 10 s, nothing listens.")
    app.found, app.is_healthy = None, True
    await _until(keeper, state="running", problem=None)
    # What its runners find themselves they need not be told.
    assert set(app.told[1:]) == {None}


async def test_an_engine_that_keeps_ending_has_failed_until_it_is_well(keeper: EngineKeeper, app: _Processes) -> None:
    app.own = "It keeps ending.\x1b[2J"
    keeper.want("one")
    await _until(keeper, state="failed", problem="It keeps ending.␛[2J")
    assert app.told[-1] == "It keeps ending.␛[2J"
    app.own = None
    await _until(keeper, state="starting", problem=None)
    assert app.told[-1] is None
    app.is_healthy = True
    await _until(keeper, state="running", problem=None)


async def test_a_running_engine_that_its_runner_finds_unwell_does_not_run(
    keeper: EngineKeeper, app: _Processes
) -> None:
    app.is_healthy = True
    keeper.want("one")
    await _until(keeper, state="running")
    app.is_healthy, app.found = False, "After 10 s, GET /healthz answers 503."
    await _until(keeper, state="failed", problem="After 10 s, GET /healthz answers 503.")
    app.is_healthy, app.found = True, None
    await _until(keeper, state="running", problem=None)


async def test_an_engine_that_is_never_up_fails_in_the_end(
    keeper: EngineKeeper, app: _Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_keeper, "_LOAD_SECONDS", 0)
    keeper.want("one")
    await _until(keeper, state="failed", problem="It is not healthy after 0 s.")


async def test_an_environment_that_could_not_be_made_is_tried_again(
    keeper: EngineKeeper, app: _Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_keeper, "_TRY_AGAIN_SECONDS", 0.02)
    app.start_fails = "The network is away."
    keeper.want("one")
    await _until(keeper, state="failed", problem="The network is away.\nCorrect it.")
    await until_async(lambda: app.starts > 2, "it is tried again")
    assert app.told[-1] == "The network is away.\nCorrect it."
    app.start_fails, app.is_healthy = None, True
    await _until(keeper, state="running", problem=None)


async def test_a_changed_bundle_is_tried_at_once(keeper: EngineKeeper, app: _Processes) -> None:
    app.start_fails = "There is no such file."
    keeper.want("one")
    await _until(keeper, state="failed")
    app.start_fails, app.is_healthy = None, True
    keeper.retry()
    await _until(keeper, state="running", deployed="one")
    keeper.want("two")
    await _until(keeper, state="running", deployed="two")
