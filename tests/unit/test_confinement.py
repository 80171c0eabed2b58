"""What an engine's process is shown and hidden, which user it becomes, and what it may have."""

import asyncio
import json
import os
import pwd
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.support.waiting import until

from enginehouse.contracts.engine import Resources
from enginehouse.local import confinement
from enginehouse.local import guard as guard_module
from enginehouse.local.confine import VARIABLE, confined
from enginehouse.local.confinement import (
    Confinement,
    UserPool,
    confinement_of_engine,
    let_all_read,
    limits,
    needed_of_program,
    private_folders,
    why_not_confined,
)
from enginehouse.local.guard import Guard, end_user, spare_user
from enginehouse.local.interpreters import Interpreter

_AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")


@pytest.fixture
def guard() -> Iterator[Guard]:
    made = Guard()
    yield made
    made.close()


def test_private_are_the_deployment_the_starters_home_and_the_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, own, cache = (tmp_path / name for name in ("a/home", "me", "me/cache"))
    for folder in (home, own, cache):
        folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("HOME", str(own))
    monkeypatch.setattr(confinement, "cache_folder", lambda: cache)
    assert [path for path in private_folders(home) if path != Path("/root")] == [home, own]
    monkeypatch.setenv("HOME", "/")
    assert [path for path in private_folders(home) if path != Path("/root")] == [home, cache]


def test_an_engine_is_shown_what_it_runs_from_and_never_a_whole_private_folder(tmp_path: Path) -> None:
    private, source, environment = tmp_path / "private", tmp_path / "private/source", tmp_path / "private/env"
    outside = Path("/usr/bin")
    for folder in (source, environment / "bin"):
        folder.mkdir(parents=True)
    needed = [source, environment, environment / "bin", outside, private, tmp_path, tmp_path / "missing"]
    made = confinement_of_engine([private], needed, private / "run", Resources(memory="64Mi"))
    assert made.shown == [environment, source]
    assert made.scratch_bytes == 64 * 2**20
    assert made.groups == ()
    assert made.hidden == [] if str(tmp_path).startswith("/tmp") else [private]


def test_a_program_needs_its_path_and_the_file_that_its_link_leads_to(tmp_path: Path) -> None:
    node, tools = tmp_path / "node" / "bin", tmp_path / "tools"
    for folder in (node, tools):
        folder.mkdir(parents=True)
    (tools / "node-20").write_text("#!/bin/sh\n")
    (tools / "node-20").chmod(0o755)
    (node / "node").symlink_to(tools / "node-20")
    found = needed_of_program(["node", "engine.js"], {"PATH": f"{node}:/usr/bin"})
    assert {node, tmp_path / "node" / "lib", tools / "node-20"} <= set(found)


def test_an_interpreter_is_shown_by_each_name_of_its_installation_and_never_as_a_whole(tmp_path: Path) -> None:
    installed, link = tmp_path / "cpython-3.12.1", tmp_path / "cpython-3.12"
    (installed / "bin").mkdir(parents=True)
    link.symlink_to(installed)
    (tmp_path / "cpython-3.11").symlink_to(tmp_path)
    found = Interpreter("/venv/bin/python", "3.12.1", link / "bin" / "python3", installed).folders()
    assert {folder / name for folder in (installed, link) for name in ("bin", "lib")} <= set(found)
    assert {folder.parent for folder in found} == {installed, link}


def test_limits_follow_the_resources_and_count_processes_only_of_a_user_of_its_own() -> None:
    small = limits(Resources(memory="256Mi"))
    assert small == {"DATA": 256 * 2**20, "NOFILE": 8_192, "FSIZE": 4 * 2**30, "CORE": 0}
    assert limits(Resources(memory="16Gi"))["FSIZE"] == 16 * 2**30
    assert limits(Resources(memory="256Mi"), own_user=True) == {**small, "NPROC": 1_024}


def test_variables_of_an_engine_reach_nothing_before_it_is_confined() -> None:
    command, environment = confined(["x"], {"LD_PRELOAD": "/evil.so", "PYTHONPATH": "/evil"}, {"CORE": 0})
    assert list(environment) == [VARIABLE]
    assert json.loads(environment[VARIABLE])["environment"]["LD_PRELOAD"] == "/evil.so"
    assert "/evil" not in str(command)


def test_files_become_readable_and_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    (folder / "in").mkdir(parents=True)
    for path, mode in ((folder / "in" / "text", 0o600), (folder / "in" / "program", 0o700), (other, 0o600)):
        path.touch()
        path.chmod(mode)
    for path in (folder, folder / "in"):
        path.chmod(0o700)
    (folder / "link").symlink_to(other)
    changed: list[str] = []

    def note(path: str, mode: int, change: Callable[[str, int], None] = os.chmod) -> None:
        changed.append(path)
        change(path, mode)

    monkeypatch.setattr(os, "chmod", note)
    let_all_read(folder)
    assert changed[-1] == str(folder), "killed half-way, it begins anew"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes == {"folder": 0o755, "in": 0o755, "text": 0o644, "program": 0o755, "link": 0o600}


@_AS_ROOT
async def test_no_user_is_handed_out_twice_or_has_a_name() -> None:
    one, two = UserPool(), UserPool()
    taken = {await pool.take() for pool in (one, two) for _ in range(20)}
    assert len(taken) == 40
    assert not taken & {entry.pw_uid for entry in pwd.getpwall()}
    assert not {user for user in taken if spare_user(user) in taken}, "what ends one has no other's processes"
    for pool in (one, two):
        for user in list(pool._held):
            pool.release(user)


async def test_a_slow_directory_of_users_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[threading.Thread] = []

    def ask(user: int) -> None:
        asked.append(threading.current_thread())
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", ask)
    users = UserPool()
    users.release(await users.take())
    assert asked
    assert threading.main_thread() not in asked


@_AS_ROOT
def test_a_guard_ends_every_process_of_a_users_group_when_it_is_forgotten_and_when_it_closes(tmp_path: Path) -> None:
    users = UserPool()
    for forgets in (True, False):
        user, guard = asyncio.run(users.take()), Guard()
        pid = os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "-c", _ESCAPES.format(user=user)], {})
        guard.watch(pid, user)
        os.waitpid(pid, 0)
        until(partial(_of_user, user), "it has left its group")
        guard.forget(pid) if forgets else guard.close()
        until(partial(_of_no_process, user), "it has ended")
        guard.close()
        users.release(user)


_ESCAPES = """
import os, time
os.setgid({user})
os.setuid({user})
if os.fork():
    os._exit(0)
os.setsid()
time.sleep(600)
"""


@_AS_ROOT
def test_a_user_that_stops_whatever_it_may_does_not_stop_what_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    users = UserPool()
    user = asyncio.run(users.take())
    pid = os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "-c", _STOPS.format(user=user)], {})
    until(partial(_of_user, user), "it stops what it may")
    kill = os.kill

    def kill_later(pid: int, number: int) -> None:
        time.sleep(0.3)  # It gets its chance.
        kill(pid, number)

    monkeypatch.setattr(os, "kill", kill_later)
    ending = threading.Thread(target=end_user, args=(user,), daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()
    os.waitpid(pid, 0)
    assert not _of_user(user)
    users.release(user)


_STOPS = """
import os, signal
os.setgid({user})
os.setuid({user})
while os.getuid() == {user}:
    try:
        os.kill(-1, signal.SIGSTOP)
    except OSError:
        pass
"""


def test_a_guard_that_does_not_read_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard, nobody = Guard(), 2**30
    guard.run_last(["touch", str(tmp_path / "last")])
    assert guard._process
    pid, pipe = guard._process.pid, guard._process.stdin
    assert pipe
    os.kill(pid, signal.SIGSTOP)
    for _ in range(10_000):
        guard.forget(nobody)
    assert guard._unwritten
    os.kill(pid, signal.SIGCONT)
    until(lambda: select.select([], [pipe], [], 0)[1], "the guard reads on")
    while guard._unwritten:
        guard.forget(nobody)
    guard.close()
    assert (tmp_path / "last").exists(), "it has understood every line"

    monkeypatch.setattr(guard_module, "_CLOSE_SECONDS", 0.2)
    guard.run_last([])
    os.kill(guard._process.pid, signal.SIGSTOP)
    guard.close()
    assert guard._process is None


def _of_user(user: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if f"\nUid:\t{user}\t" in text and "\nState:\tZ" not in text:
            found.append(path.parent.name)
    return found


def _of_no_process(user: int) -> bool:
    return not _of_user(user)


async def test_a_machine_says_why_it_cannot_confine(monkeypatch: pytest.MonkeyPatch, guard: Guard) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert await why_not_confined(guard) == "only root can start processes of another user"
    monkeypatch.setattr(
        confinement, "confined", lambda *_: (["sh", "-c", "echo cannot start true: unshare: no >&2; exit 1"], {})
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if sys.platform == "linux":
        assert await why_not_confined(guard) == "this machine does not let root do it: unshare: no"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert await why_not_confined(guard) == "only Linux has what that needs"


def test_a_plan_names_every_part() -> None:
    made = Confinement([Path("/root")], [Path("/root/x")], Path("/root/h"), 5, Path("/s"), (7,))
    assert made.plan(9) == {
        "user": 9,
        "groups": [7],
        "hidden": ["/root"],
        "shown": ["/root/x"],
        "home": "/root/h",
        "scratch_bytes": 5,
        "secrets": "/s",
    }
