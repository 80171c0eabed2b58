"""A hostile engine in a container reaches nothing but its runner, uses no more than its share, and leaves nothing behind."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.docker import docker, inspect, left_by, skip_without_docker
from tests.support.stack import StackHandle, start_stack, until

from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.hardening import PIDS
from enginehouse.local.guard import Guard
from enginehouse.local.home import Home
from enginehouse.registry.secrets import set_secret

Noted = Callable[[str, str, str], None]
_ENGINES = Path(__file__).resolve().parents[2] / "engines"
_HOSTILE, _OTHER = "tests--breaks-out", "tests--echo"
_SECRET = "very-secret-value"
pytestmark = pytest.mark.timeout(600)  # The first run makes images.


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    skip_without_docker()
    folder = tmp_path_factory.mktemp("containers")
    set_secret(Home.at(folder).path, _HOSTILE, "MODEL_TOKEN", _SECRET)
    handle = start_stack(folder, [_ENGINES / "breaks_out", _ENGINES / "echo"], in_containers=True)
    try:
        yield handle
    finally:
        handle.stop()


def _container(stack: StackHandle, engine: str, part: str = "engine-0") -> str:
    return f"{Docker(Guard(), stack.home.path).prefix}-{engine}--a.{part}"


def _job(stack: StackHandle, code: str) -> dict[str, Any]:
    job: dict[str, Any] = stack.submit(_HOSTILE, {"code": code}, tenant="tests", wait=60)
    return job


def _result(stack: StackHandle, code: str) -> Any:
    """Return what the hostile engine calls `result` when it has run the code."""
    job = _job(stack, code)
    assert job["status"] == "succeeded", job
    return job["output"]


def _addresses(name: str) -> list[str]:
    return [found["IPAddress"] for found in inspect(name)["NetworkSettings"]["Networks"].values()]


@contextmanager
def _listening_everywhere() -> Iterator[tuple[int, list[str]]]:
    """Accept connections on all addresses of this machine for the length of the block, which all are on this machine."""
    met: list[str] = []

    def accept(server: socket.socket) -> None:
        while True:
            try:
                connection, (address, _) = server.accept()
            except OSError:
                return
            met.append(address)
            connection.close()

    with socket.create_server(("0.0.0.0", 0)) as server:
        thread = threading.Thread(target=accept, args=(server,))
        thread.start()
        yield server.getsockname()[1], met
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


_CONNECT = """
import socket
from concurrent.futures import ThreadPoolExecutor
def attempt(target):
    try:
        socket.create_connection(tuple(target), 2).close()
        return "OPEN"
    except OSError as error:
        return type(error).__name__
with ThreadPoolExecutor(32) as pool:
    result = list(pool.map(attempt, {targets}))
"""


def test_its_network_has_nobody_but_its_relay(stack: StackHandle, note: Noted) -> None:
    own = [found.address for them in psutil.net_if_addrs().values() for found in them if found.family == socket.AF_INET]
    other = [*_addresses(_container(stack, _OTHER)), *_addresses(_container(stack, _OTHER, "relay-0"))]
    gateway = _addresses(_container(stack, _HOSTILE))[0].rpartition(".")[0] + ".1"
    redis = stack.processes()["redis"]["port"]
    with _listening_everywhere() as (port, met):
        for address in own:
            socket.create_connection((address, port), 5).close()
        until(lambda: len(met) == len(own), "the listener is there for us")
        targets = [
            (address, number) for address in [*own, gateway] for number in (port, redis, 22) if address != "127.0.0.1"
        ]
        targets += [(address, 8000) for address in other] + [
            ("169.254.169.254", 80),
            ("127.0.0.1", port),
            ("127.0.0.1", redis),
        ]
        answers = _result(stack, _CONNECT.format(targets=targets))
    note(
        "the host, Redis, another engine, the metadata address", "a network without the host", f"{len(answers)} refused"
    )
    assert "OPEN" not in answers, dict(zip(targets, answers, strict=True))
    assert len(met) == len(own)


def test_no_name_is_found(stack: StackHandle, note: Noted) -> None:
    names = [
        "example.com",
        "host.docker.internal",
        "gateway.docker.internal",
        _container(stack, _OTHER),
        "localhost.localdomain",
    ]
    found = _result(
        stack,
        f"""
import socket
from concurrent.futures import ThreadPoolExecutor
def find(name):
    try:
        return str(socket.getaddrinfo(name, 80))
    except OSError:
        return ""
with ThreadPoolExecutor(8) as pool:
    result = list(pool.map(find, {names}))
""",
    )
    note("names", "no name server", f"{len(names)} not found")
    assert not any(found), found


def test_its_build_had_no_network(stack: StackHandle, note: Noted) -> None:
    reached = _result(stack, "import json; result = json.load(open('/reached.json'))")
    note("a build that reaches out", "no network", str(reached))
    assert reached == {"interfaces": ["lo"], "routes": [], "name": "gaierror"}


def test_it_runs_as_nobody_and_may_do_nothing(stack: StackHandle, note: Noted) -> None:
    status = _result(stack, "result = open('/proc/self/status').read()")
    found = dict(line.split(":", 1) for line in status.splitlines())
    facts = {
        name: found[name].split() for name in ("Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
    }
    note("root, capabilities", "uid 1000, none", str(facts["CapBnd"]))
    assert facts == {
        "Uid": ["1000"] * 4,
        "Gid": ["3000"] * 4,
        "Groups": ["3000"],
        "CapEff": ["0" * 16],
        "CapBnd": ["0" * 16],
        "NoNewPrivs": ["1"],
        "Seccomp": ["2"],
    }
    host = inspect(_container(stack, _HOSTILE))["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (512 * 2**20, 512 * 2**20, 500_000_000)
    assert (host["ReadonlyRootfs"], host["Privileged"], host["PidMode"], host["Binds"]) == (True, False, "", None)
    assert len(inspect(_container(stack, _HOSTILE))["NetworkSettings"]["Networks"]) == 1


def test_system_calls_that_reach_further_are_refused(stack: StackHandle, note: Noted) -> None:
    calls = {
        "ptrace": 101,
        "mount": 165,
        "unshare": 272,
        "setns": 308,
        "keyctl": 250,
        "bpf": 321,
        "userfaultfd": 323,
        "perf_event_open": 298,
        "io_uring_setup": 425,
        "process_vm_readv": 310,
        "chroot": 161,
        "init_module": 175,
        "kexec_load": 246,
        "open_by_handle_at": 304,
        "clone3": 435,
        "mknod": 133,
        "pivot_root": 155,
    }
    families = {"AF_NETLINK": 16, "AF_PACKET": 17, "AF_ALG": 38, "AF_VSOCK": 40, "AF_BLUETOOTH": 31}
    refused = _result(
        stack,
        f"""
import ctypes, errno, socket, platform
libc = ctypes.CDLL(None, use_errno=True)
result = {{}}
for name, number in {calls}.items():
    ctypes.set_errno(0)
    returned = libc.syscall(number, 0, 0, 0, 0, 0)
    result[name] = errno.errorcode.get(ctypes.get_errno()) if returned == -1 else "DONE"
returned = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)  # clone into a new user namespace
result["clone"] = errno.errorcode.get(ctypes.get_errno()) if returned == -1 else "DONE"
for name, number in {families}.items():
    try:
        socket.socket(number, socket.SOCK_RAW)
        result[name] = "DONE"
    except OSError as error:
        result[name] = errno.errorcode[error.errno]
""",
    )
    note("calls into the kernel", "seccomp", f"{len(refused)} refused")
    assert {name: how for name, how in refused.items() if how not in ("EPERM", "ENOSYS")} == {}


def test_it_writes_to_its_scratch_only_until_that_is_full(stack: StackHandle, note: Noted) -> None:
    tried = [
        "/x",
        "/engine/x",
        "/etc/x",
        "/usr/local/bin/x",
        "/var/tmp/x",
        "/secrets/x",
        "/sys/fs/cgroup/x",
        "/proc/sys/kernel/core_pattern",
        "/root/x",
    ]
    found = _result(
        stack,
        f"""
import os, subprocess
result = dict(written=[], full=None)
for path in {tried}:
    try:
        open(path, "w").write("x")
        result["written"].append(path)
    except OSError:
        pass
try:
    with open("/tmp/big", "wb") as file:
        for _ in range(1000):
            file.write(bytes(1 << 20))
except OSError as error:
    result["full"] = error.strerror
result["bytes"] = os.path.getsize("/tmp/big")
os.remove("/tmp/big")
with open("/tmp/program", "w") as file:
    file.write("#!/bin/sh\\n")
os.chmod("/tmp/program", 0o755)
try:
    subprocess.run(["/tmp/program"])
    result["ran"] = True
except OSError as error:
    result["ran"] = error.strerror
""",
    )
    note("writing, filling the disk", "read-only, a bounded /tmp", f"full after {found['bytes'] >> 20} MiB")
    assert found["written"] == []
    assert found["full"] == "No space left on device"
    assert found["bytes"] <= 256 * 2**20
    assert found["ran"] == "Permission denied"


def test_it_has_no_token_and_its_own_secret_only(stack: StackHandle, note: Noted) -> None:
    found = _result(
        stack,
        """
import os, stat
folder = os.environ["ENGINEHOUSE_SECRETS_DIR"]
path = os.path.join(folder, "MODEL_TOKEN")
details = os.stat(path)
result = dict(variables=sorted(os.environ), files=os.listdir(folder), value=open(path).read(),
              mode=oct(stat.S_IMODE(details.st_mode)), owner=[details.st_uid, details.st_gid])
""",
    )
    note("tokens, others' secrets", "own variables, own files", ", ".join(found["variables"]))
    assert (found["value"], found["files"], found["mode"], found["owner"]) == (
        _SECRET,
        ["MODEL_TOKEN"],
        "0o400",
        [1000, 3000],
    )
    images = {"LANG", "PATH", "PIP_NO_INDEX", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "UV_OFFLINE", "HOSTNAME"}
    assert set(found["variables"]) - images == {"ENGINEHOUSE_SECRETS_DIR", "ENGINE_CONCURRENCY", "HOME", "HOST", "PORT"}


def test_a_fork_bomb_ends_at_its_bound(stack: StackHandle, note: Noted) -> None:
    count = _result(
        stack,
        """
import os, signal
children = []
try:
    while len(children) < 5000:
        children.append(os.posix_spawn("/bin/sleep", ["sleep", "600"], {}))
except OSError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)
for child in children:
    os.waitpid(child, 0)
result = len(children)
""",
    )
    note("a fork bomb", "the bound of processes", f"{count} of 5,000")
    assert 0 < count < PIDS
    assert stack.submit(_OTHER, "well", tenant="tests")["output"] == "well"


def test_a_memory_bomb_ends_itself_alone_and_it_comes_back(stack: StackHandle, note: Noted) -> None:
    job = _job(stack, "result = len(bytearray(b'x') * (1 << 30))")
    note("a memory bomb", "the bound of memory", str(job["error"]))
    assert job["status"] == "failed", job
    assert job["error"]["message"] or job["error"]["detail"]
    assert stack.submit(_OTHER, "well", tenant="tests")["output"] == "well"
    until(lambda: _job(stack, "result = 'again'")["output"] == "again", "it is started again", 60)


def test_a_replica_that_is_killed_is_started_again_and_nothing_outlives_the_supervisor(stack: StackHandle) -> None:
    docker("kill", _container(stack, _OTHER))
    until(lambda: stack.processes()[f"{_OTHER}--a.engine-0"]["restarts"] == 1, "the replica is started again")
    assert left_by(stack.home.path)
    os.kill(stack.up.pid, signal.SIGKILL)
    stack.up.process.wait(10)
    until(lambda: not left_by(stack.home.path), "nothing outlives the supervisor", 60)
