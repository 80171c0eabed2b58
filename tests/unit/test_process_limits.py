"""A process gets no more memory than its engine.yaml allows, and says so when it ends of that."""

import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.break_ins import attempt
from tests.support.waiting import until_async

from enginehouse.engine.memory import describe_memory_error
from enginehouse.local.processes import ProcessPace, ProcessSpec, Supervisor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")

_MI = 2**20


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    made = Supervisor(lambda: None, ProcessPace(first_backoff_seconds=0.01, longest_backoff_seconds=0.01))
    yield made
    await made.close()


def _spec(folder: Path, code: str) -> ProcessSpec:
    async def healthy() -> bool:
        return (folder / "log").exists() and "up" in (folder / "log").read_text()

    return ProcessSpec(
        name="one",
        kind="test",
        command=[sys.executable, "-c", code],
        environment=dict,
        cwd=folder,
        log=folder / "log",
        port=0,
        health_url=None,
        health=healthy,
        limits={"DATA": 256 * _MI},
    )


async def _problem(supervisor: Supervisor, spec: ProcessSpec) -> str:
    process = supervisor.start(spec)
    found: str = await until_async(process.problem, "it has died three times")
    return found


@attempt("takes memory without end, as a process", layer="RLIMIT_DATA")
async def test_what_exceeds_the_limit_is_refused_and_named_as_the_cause(supervisor: Supervisor, tmp_path: Path) -> None:
    said = await _problem(supervisor, _spec(tmp_path, "x = bytearray(700_000_000)"))
    assert "It wanted more memory than the 256 MiB that resources.memory in engine.yaml allows." in said
    assert said.endswith("MemoryError")


async def test_what_stays_below_the_limit_runs(supervisor: Supervisor, tmp_path: Path) -> None:
    process = supervisor.start(
        _spec(tmp_path, "x = bytearray(150_000_000); print('up', flush=True); __import__('time').sleep(99)")
    )
    await process.wait_healthy(20)


async def test_the_limit_holds_for_what_the_process_starts(supervisor: Supervisor, tmp_path: Path) -> None:
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'bytearray(700_000_000)']))"
    assert "MemoryError" in await _problem(supervisor, _spec(tmp_path, code))


async def test_a_limit_adds_nothing_to_the_environment_of_a_process(supervisor: Supervisor, tmp_path: Path) -> None:
    spec = _spec(tmp_path, "import os; raise SystemExit(sorted(os.environ))")
    said = await _problem(supervisor, replace(spec, environment=lambda: {"LC_CTYPE": "C.UTF-8", "PORT": "1"}))
    assert said.endswith("['LC_CTYPE', 'PORT']")


async def test_a_command_that_does_not_exist_is_told_of(supervisor: Supervisor, tmp_path: Path) -> None:
    said = await _problem(supervisor, replace(_spec(tmp_path, ""), command=["/no/such/program"]))
    assert "cannot start /no/such/program: No such file" in said


async def test_other_ends_are_told_by_status_or_signal_in_words_that_stay_the_same(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    said = await _problem(supervisor, _spec(tmp_path, "raise SystemExit('no licence')"))
    assert said == "one keeps ending, with exit status 1. Its last lines:\nno licence"
    killed = replace(_spec(tmp_path, "import os; os.kill(os.getpid(), 9)"), name="two", log=tmp_path / "two")
    assert await _problem(supervisor, killed) == "two keeps ending, with signal SIGKILL. Its last lines:\n(nothing)"


async def test_the_last_words_are_those_of_the_last_process(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("SyntaxError of an earlier deployment\n")
    said = await _problem(supervisor, _spec(tmp_path, "raise SystemExit(3)"))
    assert said == "one keeps ending, with exit status 3. Its last lines:\n(nothing)"


def test_a_memory_error_in_an_engine_says_what_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginehouse.engine.memory._limit_bytes", lambda: 256 * _MI)
    assert describe_memory_error(MemoryError()) == (
        "there is no memory left for it (the engine may have 256 MiB: resources.memory in engine.yaml)"
    )
    monkeypatch.setattr("enginehouse.engine.memory._limit_bytes", lambda: None)
    assert describe_memory_error(MemoryError("Unable to allocate 5 GiB")) == "Unable to allocate 5 GiB"
