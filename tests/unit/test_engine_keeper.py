"""A keeper says what an engine waits for and why it does not work, to the state file and to the engine's runners."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.waiting import until_async

from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.local import engine_keeper
from enginehouse.local.containers.memory import MemoryWatch
from enginehouse.local.engine_keeper import EngineKeeper
from enginehouse.local.engine_processes import SlotProcesses
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
        self.noted: list[tuple[Misdeed, int]] = []
        self.starts = 0
        self.did = Counter[Misdeed]()

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

    async def misdeeds(self) -> Counter[Misdeed]:
        return self.did

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
    made = EngineKeeper(context, "acme--one", "a", tmp_path, lambda _: None, lambda _, *what: app.noted.append(what))
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


async def test_what_a_version_does_is_reported_once(keeper: EngineKeeper, app: _Processes) -> None:
    keeper.want("one")
    app.did = Counter({Misdeed.CRASHES: 3, Misdeed.HANGS: 0})
    await until_async(lambda: app.noted == [("crashes", 3)], "it is reported", 10)
    app.did = Counter({Misdeed.CRASHES: 5})
    app.is_healthy = True
    await _until(keeper, state="running")
    await until_async(lambda: app.noted == [("crashes", 3), ("crashes", 2)], "so is the next, while it runs", 10)
    app.did = Counter({Misdeed.CRASHES: 5, Misdeed.HANGS: 1})
    await until_async(lambda: app.noted[2:] == [("hangs", 1)], "and what is new", 10)


@dataclass
class _Replica:
    """A replica, in the condition that the test sets."""

    healthy: bool = False
    status: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(restarts=0, last_exit=1))

    async def is_healthy(self) -> bool:
        return self.healthy

    def end(self, times: int, status: int = 1) -> None:
        self.status.restarts += times
        self.status.last_exit = status

    def kill_and_restart(self) -> bool:
        return True


def _slot(folder: Path, *replicas: _Replica) -> SlotProcesses:
    """Return the processes of a version with these replicas, which are called 0, 1, 2, …"""
    context: Any = SimpleNamespace(fleet=None)
    slot = SlotProcesses(context, "acme--one", "a", folder)
    slot._replicas = {str(number): cast(Any, replica) for number, replica in enumerate(replicas)}
    return slot


async def test_crashes_are_those_of_the_worst_replica_and_apart_once_one_has_been_healthy(tmp_path: Path) -> None:
    replicas = [_Replica() for _ in range(20)]
    slot = _slot(tmp_path, *replicas)
    assert await slot.misdeeds() == {}
    for replica in replicas:
        replica.end(2)
    replicas[7].end(1)
    assert await slot.misdeeds() == {"crashes_while_starting": 3}
    # The machine could not start it.
    replicas[7].end(1, status=127)
    assert await slot.misdeeds() == {"crashes_while_starting": 3}
    # One alone is enough: a runner gives it jobs, and they may end it.
    replicas[3].healthy = True
    assert await slot.misdeeds() == {"crashes_while_starting": 3}
    replicas[3].healthy = False
    for replica in replicas:
        replica.end(50)
    replicas[5].end(1)
    assert await slot.misdeeds() == {"crashes_while_starting": 3, "crashes": 51}


async def test_a_replica_that_is_killed_because_it_hangs_has_not_crashed(tmp_path: Path) -> None:
    replica = _Replica(healthy=True)
    slot = _slot(tmp_path, replica)
    slot.restart_replica(tmp_path / slot.app / "0")
    assert await slot.misdeeds() == {"hangs": 1}, "its end is not known yet"
    replica.end(1)
    assert await slot.misdeeds() == {"hangs": 1}
    replica.end(1)
    assert await slot.misdeeds() == {"hangs": 1, "crashes": 1}, "the next is one by itself"


async def test_a_container_that_docker_could_not_start_has_not_crashed(tmp_path: Path) -> None:
    replica, asked = _Replica(), list[int]()
    slot = _slot(tmp_path, replica)

    async def has_run(number: int) -> bool:
        asked.append(number)
        return len(asked) > 1

    slot._contained = cast(Any, SimpleNamespace(has_run=has_run, out_of_memory=lambda: 4))
    for counted in (0, 1):
        replica.end(1)
        assert await slot.misdeeds() == Counter({"crashes_while_starting": counted, "out_of_memory": 4})
    assert asked == [0, 0]


async def test_memory_that_is_refused_is_counted_for_its_container(tmp_path: Path) -> None:
    lines = ["1500000000 one", "2500000000 one", "7 stranger", "nonsense", "3500000000 two"]

    async def show(command: list[str], take: Any) -> None:
        assert "event=oom" in command
        for line in lines:
            take(line)
        lines.clear()

    watch = MemoryWatch(cast(Any, SimpleNamespace(show=show, labels=lambda: ["home"])))
    for container in ("one", "two"):
        watch.follow(container, tmp_path / container)
    listening = asyncio.create_task(watch.run())
    await until_async(lambda: not lines, "it has listened", 10)
    assert (watch.times(tmp_path), watch.times(tmp_path / "other")) == (2, 0)
    assert (tmp_path / "one").read_text() == "2.500000"
    watch.follow("one", tmp_path / "one")
    assert watch.times(tmp_path) == 1, "that of the other: one was made anew"
    listening.cancel()
