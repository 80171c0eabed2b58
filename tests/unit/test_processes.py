"""Processes are restarted, stop together with their children, and never outlive their supervisor."""

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import psutil
import pytest
import structlog
from tests.support.waiting import until, until_async

from enginehouse.local.home import Home
from enginehouse.local.processes import ProcessPace, ProcessSpec, StartFailed, Supervised, Supervisor
from enginehouse.local.stack import Stack
from enginehouse.local.steps import SilentSteps

_CHILD_AND_GRANDCHILD = "sleep 300 & echo $! > grandchild; echo up; wait"
_DEAF = "trap '' TERM; echo up; while :; do sleep 0.2; done"


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _spec(
    folder: Path, script: str, name: str = "one", grace_seconds: float = 5, is_tenants: bool = False
) -> ProcessSpec:
    log = folder / f"{name}.log"

    async def healthy() -> bool:
        return log.exists() and "up" in log.read_text()

    return ProcessSpec(
        name=name,
        kind="test",
        is_tenants=is_tenants,
        command=["/bin/sh", "-c", script],
        environment=lambda: {"PATH": os.environ["PATH"]},
        cwd=folder,
        log=log,
        port=0,
        health_url=None,
        health=healthy,
        grace_seconds=grace_seconds,
    )


@pytest.fixture
def pace() -> ProcessPace:
    return ProcessPace()


@pytest.fixture
async def supervisor(pace: ProcessPace) -> AsyncIterator[Supervisor]:
    made = Supervisor(lambda: None, pace)
    yield made
    await made.close()


async def _start(supervisor: Supervisor, spec: ProcessSpec) -> tuple[Supervised, int]:
    process = supervisor.start(spec)
    await process.wait_healthy(10)
    assert process.status.pid
    return process, process.status.pid


async def test_one_that_dies_is_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    process, pid = await _start(supervisor, _spec(tmp_path, _CHILD_AND_GRANDCHILD))
    os.kill(pid, signal.SIGKILL)
    await until_async(lambda: process.status.pid not in (None, pid), "the process is restarted", 10)
    assert process.status.restarts == 1
    assert process.status.last_exit == -signal.SIGKILL


async def test_what_it_started_ends_with_it_when_it_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    process, pid = await _start(supervisor, _spec(tmp_path, _CHILD_AND_GRANDCHILD))
    grandchild = int((tmp_path / "grandchild").read_text())
    os.kill(pid, signal.SIGKILL)
    await until_async(lambda: not _alive(grandchild), "the grandchild has ended", 10)
    await process.stop()


async def test_stopping_ends_it_and_what_it_started(supervisor: Supervisor, tmp_path: Path) -> None:
    process, pid = await _start(supervisor, _spec(tmp_path, _CHILD_AND_GRANDCHILD))
    grandchild = int((tmp_path / "grandchild").read_text())
    await supervisor.stop(process)
    assert not _alive(pid)
    await until_async(lambda: not _alive(grandchild), "the grandchild has ended", 10)
    assert supervisor.statuses() == []


@pytest.mark.parametrize("pace", [ProcessPace(insist_seconds=0.1)])
async def test_one_that_ignores_being_told_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    process, pid = await _start(supervisor, _spec(tmp_path, _DEAF, grace_seconds=0.1))
    await supervisor.stop(process)
    assert not _alive(pid)


@pytest.mark.parametrize("pace", [ProcessPace(insist_seconds=0.1)])
async def test_a_stopped_one_is_killed_too(supervisor: Supervisor, tmp_path: Path) -> None:
    process, pid = await _start(supervisor, _spec(tmp_path, _CHILD_AND_GRANDCHILD, grace_seconds=0.1))
    os.kill(pid, signal.SIGSTOP)
    await supervisor.stop(process)
    assert not _alive(pid)


async def test_one_that_keeps_dying_fails_with_its_last_words(supervisor: Supervisor, tmp_path: Path) -> None:
    process = supervisor.start(_spec(tmp_path, "echo no licence; exit 3"))
    with pytest.raises(StartFailed, match="no licence"):
        await process.wait_healthy(30)
    assert process.status.last_exit == 3


@pytest.mark.parametrize("pace", [ProcessPace(first_backoff_seconds=300, longest_backoff_seconds=300)])
async def test_one_waiting_for_its_next_try_is_stopped_at_once(supervisor: Supervisor, tmp_path: Path) -> None:
    process = supervisor.start(_spec(tmp_path, "exit 3"))
    await until_async(lambda: process.status.state == "waiting to restart", "the process waits for its restart", 10)
    await asyncio.wait_for(supervisor.stop(process), 30)


async def test_a_very_long_log_is_put_aside_when_its_process_starts(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginehouse.local.processes._LONGEST_LOG", 100)
    spec = _spec(tmp_path, "echo new; exit 3")
    spec.log.write_text("old\n" * 50)
    supervisor.start(spec)
    await until_async(lambda: spec.log.exists() and "new" in spec.log.read_text(), "it has said something", 10)
    assert "old" not in spec.log.read_text()
    assert spec.log.with_name(f"{spec.log.name}.old").read_text() == "old\n" * 50


async def test_a_process_whose_start_cannot_be_noted_does_not_live_on_beside_the_next(tmp_path: Path) -> None:
    first: list[int | None] = []

    def note() -> None:
        if not first:
            first.append(process.status.pid)
            raise OSError(errno.ENOSPC, "No space left on device")

    supervisor = Supervisor(note, ProcessPace(first_backoff_seconds=0.1))
    process = supervisor.start(_spec(tmp_path, "echo up; exec sleep 300"))
    await process.wait_healthy(20)
    assert process.status.pid not in (None, *first)
    assert first[0]
    assert not _alive(first[0])
    await supervisor.close()


async def test_processes_start_and_stop_while_their_state_cannot_be_written(tmp_path: Path) -> None:
    stack = Stack(Home.at(tmp_path / "home"), 0, SilentSteps())
    shutil.rmtree(stack.home.run)
    with structlog.testing.capture_logs() as logs:
        process, pid = await _start(stack.supervisor, _spec(tmp_path, "echo up; exec sleep 300"))
        await stack.supervisor.stop(process)
    assert not _alive(pid)
    assert [line["action"] for line in logs] == ["state_not_written"], "it is said once"
    await stack.supervisor.close()


async def test_arguments_that_depend_on_the_moment_are_asked_for_at_each_start(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    starts = count(1)
    spec = replace(_spec(tmp_path, 'echo "up $0"; sleep 60'), more_arguments=lambda: [str(next(starts))])
    process, pid = await _start(supervisor, spec)
    os.kill(pid, signal.SIGKILL)
    await until_async(lambda: "up 2" in spec.log.read_text(), "it is started again", 10)
    assert process.status.restarts == 1


async def test_a_command_that_does_not_exist_is_told_of(supervisor: Supervisor, tmp_path: Path) -> None:
    spec = _spec(tmp_path, "")
    process = supervisor.start(
        ProcessSpec("none", "test", ["/no/such/program"], dict, tmp_path, spec.log, 0, None, spec.health)
    )
    await until_async(lambda: process.status.state == "waiting to restart", "the process waits for its restart", 10)
    assert "cannot start /no/such/program" in spec.log.read_text()


_SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
from enginehouse.local.processes import ProcessSpec, Supervisor

async def main():
    folder = Path(sys.argv[1])
    async def healthy(): return (folder / "grandchild").exists() and (folder / "grandchild").read_text().strip() != ""
    supervisor = Supervisor(lambda: None)
    supervisor.guard.run_last(["touch", str(folder / "last")])
    process = supervisor.start(ProcessSpec(
        "one", "test", ["/bin/sh", "-c", sys.argv[2]], lambda: dict(os.environ), folder, folder / "log", 0, None, healthy))
    await process.wait_healthy(20)
    print(process.status.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("script", [_CHILD_AND_GRANDCHILD, f"trap '' TERM; {_CHILD_AND_GRANDCHILD}"])
def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path, script: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SUPERVISOR, str(tmp_path), script], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout
        pids = [int(supervisor.stdout.readline()), int((tmp_path / "grandchild").read_text())]
        pids += [child.pid for child in psutil.Process(supervisor.pid).children()]
        assert len(set(pids)) == 3, "the process, what it started, and the guard"
        supervisor.kill()
    until(lambda: not any(_alive(pid) for pid in pids), "the process, its child and the guard have ended", 10)
    assert (tmp_path / "last").exists(), "the last command was run"


@pytest.mark.parametrize("pace", [ProcessPace(first_backoff_seconds=0.01, longest_backoff_seconds=300)])
async def test_one_that_keeps_dying_says_its_last_words_until_it_is_well(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    script = f"test -e {tmp_path}/mended || {{ echo no password; exit 1; }}; echo up; sleep 300"
    process = supervisor.start(_spec(tmp_path, script))
    assert await process.problem() is None
    await until_async(lambda: process.deaths >= 3, "it has died three times", 10)
    problem = await process.problem()
    assert problem is not None
    assert "no password" in problem
    await until_async(
        lambda: process.status.state == "waiting to restart" and process.deaths >= 8, "it has died eight times", 10
    )
    (tmp_path / "mended").touch()
    process.retry()
    await process.wait_healthy(10)
    assert await process.problem() is None


@pytest.mark.parametrize("pace", [ProcessPace(first_backoff_seconds=0.01)])
async def test_an_exit_status_that_means_something_is_explained(supervisor: Supervisor, tmp_path: Path) -> None:
    process = supervisor.start(replace(_spec(tmp_path, "exit 137"), meanings={137: "It was killed."}))
    await until_async(lambda: process.deaths >= 3, "it has died three times", 10)
    assert "exit status 137. It was killed. Its last lines" in (await process.problem() or "")


@pytest.mark.parametrize(
    "pace",
    [ProcessPace(first_backoff_seconds=0.01, longest_backoff_seconds=0.02, longest_tenants_backoff_seconds=300)],
)
async def test_what_everybody_waits_for_is_soon_started_again_and_a_tenants_own_engine_ever_later(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    engine = supervisor.start(_spec(tmp_path, "exit 1", "engine", is_tenants=True))
    ours = supervisor.start(_spec(tmp_path, "exit 1", "ours"))
    await until_async(lambda: ours.deaths >= 40, "it has died forty times", 20)
    # Twice as long with each death: the sixteenth would come after ten minutes.
    assert engine.deaths < 16


def test_what_everybody_waits_for_is_away_for_five_seconds_at_most() -> None:
    assert ProcessPace().longest_backoff_seconds <= 5 < ProcessPace().longest_tenants_backoff_seconds
