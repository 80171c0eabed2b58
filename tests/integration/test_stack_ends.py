"""A stack leaves no process behind, however and whenever it ends; while it starts, what is deployed starts too."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.support.stack import StackHandle, start_stack, until

_ECHO = Path(__file__).resolve().parents[1] / "engines" / "echo"


def _all_of(stack: StackHandle) -> list[psutil.Process]:
    """Return every process below the supervisor, with the guard."""
    return [psutil.Process(stack.up.pid), *psutil.Process(stack.up.pid).children(recursive=True)]


def _gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def _mentions(home: Path) -> list[str]:
    """Return command lines that still name this home, whatever their parent process is."""
    found = (process.info for process in psutil.process_iter(["pid", "cmdline"]))
    return [
        " ".join(info["cmdline"]) for info in found if info["pid"] != os.getpid() and str(home) in str(info["cmdline"])
    ]


def _has(name: str) -> Callable[[StackHandle], bool]:
    return lambda stack: bool(stack.state() and stack.processes().get(name, {}).get("pid"))


@pytest.mark.parametrize(
    ("moment", "reached"),
    [
        ("at once", lambda stack: True),
        ("with redis", _has("redis")),
        ("with the gateway's sidecar", _has("gateway.daprd")),
        ("with the engine", _has("tests--echo--a.engine-0")),
    ],
)
def test_interrupted_while_starting(tmp_path: Path, moment: str, reached: Callable[[StackHandle], bool]) -> None:
    stack = start_stack(tmp_path, [_ECHO], wait=False)
    until(lambda: reached(stack), moment, 60)
    os.kill(stack.up.pid, signal.SIGINT)
    stack.up.process.wait(60)
    until(lambda: not _mentions(tmp_path), f"nothing is left after Ctrl-C {moment}: {_mentions(tmp_path)}", 10)
    assert not stack.home.is_running()


def test_killed_started_again_and_stopped_in_order(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, [_ECHO])
    processes = _all_of(stack)
    assert len(processes) > 6
    os.kill(stack.up.pid, signal.SIGKILL)
    stack.up.process.wait(10)
    until(lambda: _gone(processes), "nothing outlives the supervisor", 20)
    again = start_stack(tmp_path, [_ECHO])
    job = again.submit("tests--echo", [1], tenant="tests")
    assert job["output"] == [1]
    processes = _all_of(again)
    again.stop()
    assert _gone(processes)
    assert again.up.process.returncode == 0
    assert again.state()["processes"] == []


def test_what_is_deployed_while_others_are_starting_does_not_wait_for_them(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    deaf.mkdir()
    (deaf / "engine.yaml").write_text("tenant: tests\nname: deaf\nrun: {command: [sleep, '1000']}\n")
    stack = start_stack(tmp_path / "home", [deaf], wait=False)
    until(lambda: _has("tests--deaf--a.engine-0")(stack), "an engine is starting", 60)
    stack.deploy(_ECHO, wait=False)
    until(lambda: (stack.state()["engines"].get("tests--echo") or {}).get("state") == "running", "the new one runs", 90)
    assert not stack.state()["ready"]
    stack.stop()
