"""A hostile engine that runs as a process of a stack that root has started reaches no file and no process but its own."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.abuse.hostile_code import FORK_BOMB
from tests.support.break_ins import Noted, attempt
from tests.support.stack import StackHandle, start_stack
from tests.support.waiting import until

from enginehouse.local.daprd import cache_folder
from enginehouse.local.home import Home
from enginehouse.registry.secrets import set_secret

_ENGINES = Path(__file__).resolve().parents[1] / "engines"
_HOSTILE, _OTHER = "tests--breaks-out", "tests--echo"
_SECRET = "very-secret-value"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    folder = tmp_path_factory.mktemp("processes")
    set_secret(Home.at(folder).path, _HOSTILE, "MODEL_TOKEN", _SECRET)
    handle = start_stack(folder, [_ENGINES / "breaks_out", _ENGINES / "echo"])
    try:
        if why := handle.state()["unconfined"]:
            pytest.skip(why)
        yield handle
    finally:
        handle.stop()


def _result(stack: StackHandle, code: str) -> Any:
    """Return what the hostile engine calls `result` when it has run the code."""
    job = stack.submit(_HOSTILE, {"code": code}, tenant="tests", wait=60)
    assert job["status"] == "succeeded", job
    return job["output"]


def _pids(stack: StackHandle) -> dict[str, int]:
    others = {name: stack.pid(name) for name in stack.processes() if not name.startswith(f"{_HOSTILE}--a.engine")}
    return {**others, "supervisor": stack.up.pid}


@attempt("as a process becomes root", layer="a user of its own, no capability", need="root")
def test_it_is_a_user_of_its_own_without_rights(stack: StackHandle, note: Noted) -> None:
    found = _result(
        stack,
        """
import os, resource
lines = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
result = {name: lines[name].split() for name in ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs")}
result["core"] = resource.getrlimit(resource.RLIMIT_CORE)
result["files"] = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
try:
    os.setuid(0)
    result["root"] = True
except OSError as error:
    result["root"] = error.strerror
""",
    )
    (user,) = set(found["Uid"])
    other = psutil.Process(stack.pid(f"{_OTHER}--a.engine-0")).uids().real
    note(f"user {user}, {found['root']}")
    assert len({int(user), other, 0}) == 3
    assert (set(found["Gid"]), found["Groups"], found["NoNewPrivs"]) == ({user}, [], ["1"])
    assert {found[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert (found["root"], found["core"], found["files"]) == ("Operation not permitted", [0, 0], 8_192)


@attempt(
    "as a process reads local.json, secrets, data, logs, other engines, /root",
    layer="private folders are empty",
    need="root",
)
def test_no_file_of_the_deployment_or_of_root_is_there(stack: StackHandle, note: Noted) -> None:
    home = stack.home
    wanted = [home.local_json, home.state_file, *home.run.glob("*.secret"), home.secrets, home.data, home.logs]
    wanted += [home.exchange, home.engines / _OTHER, home.path / "sources" / _OTHER, home.path / "tenants"]
    wanted += [home.secrets / f"{_HOSTILE}.json", cache_folder() / "dapr", Path("/root/.bashrc")]
    there = [str(path) for path in wanted if path.exists()]
    assert len(there) > 10
    found = _result(
        stack,
        f"""
import os
result = [path for path in {there} if os.path.lexists(path)]
for parent in ("/root", {str(home.path)!r}, {str(cache_folder())!r}):
    for folder, _, files in os.walk(parent):
        result += [os.path.join(folder, name) for name in files if name.endswith((".secret", ".json", ".log", ".db"))
                   and "/environments/" not in folder and "/sources/{_HOSTILE}/" not in folder and "/lib/" not in folder]
""",
    )
    note(f"{len(there)} not there")
    assert found == []


@attempt(
    "as a process takes the covers off hidden folders in a namespace of its own",
    layer="no user namespace, no mounts",
    need="root",
)
def test_nothing_hidden_appears_again_in_a_namespace_of_its_own(stack: StackHandle, note: Noted) -> None:
    local = str(stack.home.local_json)
    found = _result(
        stack,
        f"""
import os, subprocess, sys
code = '''
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.unshare(0x10000000 | 0x00020000))
for path in ("/root", "/tmp", "/var/tmp", "/dev/shm", "/proc", {local!r}.rpartition("/")[0]):
    while libc.umount2(path.encode(), 2) == 0:
        print("UNCOVERED", path)
print(os.path.exists({local!r}))
print([name for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd/" + name)])
'''
result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split("\\n")
result += [os.readlink("/proc/self/cwd"), os.readlink("/proc/self/root")]
""",
    )
    note(str(found[:2]))
    assert "UNCOVERED" not in str(found), found
    assert found[0] == "-1", "in a user namespace it would mount file systems without a bound"
    assert found[1] == "False"
    assert found[-2].startswith(str(stack.home.path / "sources" / _HOSTILE))


@attempt("as a process makes system calls that no engine needs", layer="a filter, no capability", need="root")
def test_system_calls_that_no_engine_needs_are_refused(stack: StackHandle, note: Noted) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    calls = {
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "io_uring_setup": 425,
        "x32": 1 << 30,
        "clone3": 435,
    }
    calls |= {"keyctl": 250, "add_key": 248, "request_key": 249}
    found = _result(
        stack,
        f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
result = {{}}
calls = {{name: (number, 0, 0, 0, 0, 0) for name, number in {calls}.items()}}
calls["mknod"] = (133, b"/tmp/disk", 0o60666, 0xfe00)
calls["mount"] = (165, b"none", b"/tmp", b"tmpfs", 0, 0)
calls["chroot"] = (161, b"/tmp")
calls["a user namespace"] = (56, 0x10000000 | 17, 0, 0, 0, 0)
for name, arguments in calls.items():
    returned = libc.syscall(*arguments)
    result[name] = errno.errorcode.get(ctypes.get_errno()) if returned == -1 else "DONE"
""",
    )
    note(f"{len(found)} refused")
    assert {name: how for name, how in found.items() if how not in ("EPERM", "ENOSYS")} == {}


@attempt(
    "as a process sees, reads, traces, signals the runner, daprd, Redis, other engines",
    layer="another user, and its own /proc",
    need="root",
)
def test_no_other_process_is_seen_read_traced_or_signalled(stack: StackHandle, note: Noted) -> None:
    others = _pids(stack)
    found = _result(
        stack,
        f"""
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
result = dict(seen=[], read=[], traced=[], signalled=[], own=os.getpid())
for name, pid in {others}.items():
    if os.path.exists(f"/proc/{{pid}}"):
        result["seen"].append(name)
    for file in ("environ", "mem", "maps", "cmdline", "root", "cwd", "fd"):
        try:
            os.listdir(f"/proc/{{pid}}/{{file}}") if file in ("root", "cwd", "fd") else open(f"/proc/{{pid}}/{{file}}", "rb").read(1)
            result["read"].append([name, file])
        except OSError:
            pass
    if libc.ptrace(16, pid, 0, 0) == 0:
        result["traced"].append(name)
    for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        try:
            os.kill(pid, number)
            result["signalled"].append(name)
        except OSError:
            pass
""",
    )
    note(f"{len(others)} not reached")
    assert _pids(stack) == others
    assert {name: what for name, what in found.items() if what and name != "own"} == {}
    environment = psutil.Process(stack.pid(f"{_HOSTILE}--a.runner")).environ()
    assert "APP_API_TOKEN" in environment or "DAPR_API_TOKEN" in environment, "there was something to read"


@attempt(
    "as a process writes outside of its scratch, or fills the disk",
    layer="read-only folders, a bounded scratch",
    need="root",
)
def test_it_writes_nowhere_but_to_its_bounded_scratch(stack: StackHandle, note: Noted) -> None:
    found = _result(
        stack,
        """
import glob, os, sys
result = dict(written=[], full=None)
environment = glob.glob(sys.prefix + "/lib/python*/site-packages")[0]
for folder in (".", environment, sys.prefix, sys.base_prefix, "/", "/root", "/etc", "/run", "/var/lib", "/var/log", "/usr/local",
               "/dev", "/sys", "/run/lock", "/opt", "/srv", os.environ["ENGINEHOUSE_SECRETS_DIR"], "../.."):
    try:
        open(os.path.join(folder, "x"), "w").write("x")
        result["written"].append(folder)
    except OSError:
        pass
paths = [os.path.join(folder, "big") for folder in (os.environ["HOME"], "/tmp", "/var/tmp", "/dev/shm")]
total = 0
for path in paths:
    try:
        with open(path, "wb", buffering=0) as file:
            while total < 2 << 30:
                total += file.write(bytes(1 << 20))
    except OSError as error:
        result["full"] = error.strerror
for path in paths:
    os.remove(path)
result["bytes"] = total
made = 0
try:
    for made in range(200_000):
        os.mknod(f"/tmp/{made}")
except OSError as error:
    result["many"] = [made, error.strerror]
for number in range(made):
    os.remove(f"/tmp/{number}")
""",
    )
    note(f"full after {found['bytes'] >> 20} MiB")
    assert found["written"] == []
    assert found["full"] == "No space left on device"
    assert found["bytes"] <= 512 * 2**20
    assert found["many"][0] < 100_000
    assert found["many"][1] == "No space left on device"


@attempt(
    "as a process looks for others' secrets and the platform's variables", layer="own files, own variables", need="root"
)
def test_its_secrets_are_its_own(stack: StackHandle, note: Noted) -> None:
    found = _result(
        stack,
        """
import os, stat
folder = os.environ["ENGINEHOUSE_SECRETS_DIR"]
path = os.path.join(folder, "MODEL_TOKEN")
details = os.stat(path)
result = dict(files=os.listdir(folder), value=open(path).read(), mode=stat.S_IMODE(details.st_mode),
              own=details.st_uid == os.getuid(), beside=os.listdir(os.path.dirname(folder)), variables=sorted(os.environ))
""",
    )
    note(", ".join(found["variables"]))
    assert (found["value"], found["files"], found["mode"]) == (_SECRET, ["MODEL_TOKEN"], 0o400)
    assert found["own"]
    assert found["beside"] == [f"{_HOSTILE}--a"]
    on_disk = stack.home.run / "secrets" / f"{_HOSTILE}--a" / "MODEL_TOKEN"
    assert (on_disk.stat().st_uid, stat.S_IMODE(on_disk.stat().st_mode)) == (0, 0o400)
    assert set(found["variables"]) <= {
        "ENGINEHOUSE_SECRETS_DIR",
        "ENGINE_CONCURRENCY",
        "HOME",
        "LANG",
        "LC_CTYPE",
        "PATH",
        "PORT",
    }


@attempt("as a process starts processes without end", layer="the bound of processes of its user", need="root")
def test_a_fork_bomb_ends_at_its_bound(stack: StackHandle, note: Noted) -> None:
    count = _result(
        stack,
        FORK_BOMB.format(most=5_000),
    )
    note(f"{count} of 5,000")
    assert 0 < count < 1_024
    assert stack.submit(_OTHER, "well", tenant="tests")["output"] == "well"


@attempt("as a process opens the socket of the Docker Engine", layer="another user", need="root")
def test_a_service_of_the_machine_does_not_talk_to_it(stack: StackHandle, note: Noted) -> None:
    found = _result(
        stack,
        """
import os, socket
result = {}
for path in ("/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock"):
    if os.path.exists(path):
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path)
                result[path] = "OPEN"
            except OSError as error:
                result[path] = error.strerror
""",
    )
    note(str(found))
    assert "OPEN" not in found.values()


@attempt("as a process leaves its group to outlive its engine", layer="all processes of its user end", need="root")
def test_what_leaves_its_group_ends_with_it(stack: StackHandle, note: Noted) -> None:
    name = f"{_HOSTILE}--a.engine-0"
    _result(
        stack,
        """
import subprocess, sys
code = '''
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
time.sleep(600)
'''
subprocess.run([sys.executable, "-c", code])
result = None
""",
    )
    first = stack.pid(name)
    user = psutil.Process(first).uids().real

    def alive() -> list[int]:
        return [one.pid for one in psutil.process_iter(["uids"]) if one.info["uids"] and one.info["uids"].real == user]

    until(lambda: len(alive()) == 2, "one has left its group")
    stack.until_restarted(name, stack.kill(name))
    until(lambda: not alive(), "none of that user is left")
    note(f"user {user} has no process")
    assert psutil.Process(stack.pid(name)).uids().real != user
    stack.until_engine(_HOSTILE)
