"""A hostile engine in a container reaches nothing but its runner, uses no more than its share, and leaves nothing behind."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.abuse.hostile_code import CONNECTS, FORK_BOMB, WRITES
from tests.support.abuse.stand_ins import PORT, stand_ins
from tests.support.break_ins import Noted, attempt, has
from tests.support.docker import docker, inspect, left_by, skip_without_docker
from tests.support.stack import StackHandle, start_stack, until

from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.hardening import LOG_BYTES, OPEN_FILES, PIDS
from enginehouse.local.guard import Guard
from enginehouse.local.home import Home
from enginehouse.registry.secrets import set_secret

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


@attempt("connects to the host at all its addresses", layer="a network on which the host has no address", need="docker")
@attempt("connects to Redis", layer="a network on which the host has no address", need="docker")
@attempt("connects to another engine and its relay", layer="a network of its own", need="docker")
@attempt("connects to the metadata address", layer="no route", need="docker")
@attempt(
    "speaks as a sidecar to another engine's sidecar, which asks no token there",
    layer="a network on which the host has no address",
    need="docker",
)
def test_its_network_has_nobody_but_its_relay(stack: StackHandle, note: Noted) -> None:
    own = [found.address for them in psutil.net_if_addrs().values() for found in them if found.family == socket.AF_INET]
    other = [*_addresses(_container(stack, _OTHER)), *_addresses(_container(stack, _OTHER, "relay-0"))]
    gateway = _addresses(_container(stack, _HOSTILE))[0].rpartition(".")[0] + ".1"
    redis, between = stack.processes()["redis"]["port"], _port_between_sidecars(stack, _OTHER)
    with _listening_everywhere() as (port, met):
        for address in own:
            socket.create_connection((address, port), 5).close()
        until(lambda: len(met) == len(own), "the listener is there for us")
        socket.create_connection(("127.0.0.1", between), 5).close()
        targets = [(address, number) for address in {*own, gateway} for number in (port, redis, between, 22)]
        targets += [(address, 8000) for address in other] + [("169.254.169.254", 80)]
        answers = _result(stack, CONNECTS.format(targets=targets))
    note(f"{len(answers)} refused")
    assert "OPEN" not in answers, dict(zip(targets, answers, strict=True))
    assert len(met) == len(own)


def _port_between_sidecars(stack: StackHandle, engine: str) -> int:
    line = psutil.Process(stack.pid(f"{engine}--a.daprd")).cmdline()
    return int(line[line.index("--dapr-internal-grpc-port") + 1])


@attempt("connects to the host by IPv6, at its link-local addresses", layer="no IPv6", need="docker")
@attempt("sends datagrams to the host", layer="a network on which the host has no address", need="docker")
def test_neither_ipv6_nor_datagrams_reach_the_host(stack: StackHandle, note: Noted) -> None:
    them = [found for them in psutil.net_if_addrs().values() for found in them]
    own = {found.address for found in them if found.family == socket.AF_INET}
    local = {found.address.partition("%")[0] for found in them if found.family == socket.AF_INET6} - {"::1"}
    own.add(_addresses(_container(stack, _HOSTILE))[0].rpartition(".")[0] + ".1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("0.0.0.0", 0))
        listener.settimeout(5)
        port = listener.getsockname()[1]
        scoped = [(address, port, 0) for address in sorted(local)]
        answers = _result(stack, _CONNECT_IPV6.format(targets=scoped))
        sent = _result(stack, _SEND.format(targets=[(address, port) for address in sorted(own)]))
        listener.sendto(b"from this machine", ("127.0.0.1", port))
        note(f"{len(answers)} x no IPv6; {sent} datagrams sent, none came")
        assert listener.recv(100) == b"from this machine", "whatever the engine sent would have come before"
    # A refused connection would have reached the host.
    assert {*answers} <= {"EADDRNOTAVAIL", "ENETUNREACH", "EHOSTUNREACH", "EAFNOSUPPORT", "EPERM"}, answers


_CONNECT_IPV6 = """
import errno, socket
def attempt(target):
    try:
        with socket.socket(socket.AF_INET6) as client:
            client.settimeout(2)
            client.connect((*target, socket.if_nametoindex("eth0")))
            return "OPEN"
    except TimeoutError:
        return "SILENCE"
    except OSError as error:
        return errno.errorcode[error.errno]
result = [attempt(target) for target in {targets}]
"""
_SEND = """
import socket
result = 0
for target in {targets}:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        try:
            result += client.sendto(b"from an engine", tuple(target)) > 0
        except OSError:
            pass
"""


@attempt("resolves names of the internet, the host, other engines", layer="no name server", need="docker")
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
    note(f"{len(names)} not found")
    assert not any(found), found


@attempt("reaches out while its image is built", layer="builds have no network", need="docker")
def test_its_build_had_no_network(stack: StackHandle, note: Noted) -> None:
    reached = _result(stack, "import json; result = json.load(open('/reached.json'))")
    note(str(reached))
    assert reached == {"interfaces": ["lo"], "routes": [], "name": "gaierror"}


@attempt("acts as root, or by a capability", layer="uid 1000, no capability, no new privileges", need="docker")
def test_it_runs_as_nobody_and_may_do_nothing(stack: StackHandle, note: Noted) -> None:
    status = _result(stack, "result = open('/proc/self/status').read()")
    found = dict(line.split(":", 1) for line in status.splitlines())
    facts = {
        name: found[name].split() for name in ("Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
    }
    note(str(facts["CapBnd"]))
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


@attempt(
    "makes system calls that reach further: ptrace, mount, bpf, namespaces, io_uring", layer="seccomp", need="docker"
)
@attempt("opens sockets of other families: netlink, packet, vsock", layer="seccomp", need="docker")
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
    note(f"{len(refused)} refused")
    assert {name: how for name, how in refused.items() if how not in ("EPERM", "ENOSYS")} == {}


@attempt("writes outside of its scratch", layer="a read-only root", need="docker")
@attempt("fills the disk", layer="a bounded /tmp", need="docker")
@attempt("runs a program that it wrote", layer="noexec on its scratch", need="docker")
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
        WRITES.format(tried=tried),
    )
    note(f"full after {found['bytes'] >> 20} MiB")
    assert found["written"] == []
    assert found["full"] == "No space left on device"
    assert found["bytes"] <= 256 * 2**20
    assert found["ran"] == "Permission denied"


@attempt("looks for tokens in its environment", layer="it is handed none", need="docker")
@attempt("looks for others' secrets", layer="own files only, mode 0400", need="docker")
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
    note(", ".join(found["variables"]))
    assert (found["value"], found["files"], found["mode"], found["owner"]) == (
        _SECRET,
        ["MODEL_TOKEN"],
        "0o400",
        [1000, 3000],
    )
    images = {"LANG", "PATH", "PIP_NO_INDEX", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "UV_OFFLINE", "HOSTNAME"}
    assert set(found["variables"]) - images == {"ENGINEHOUSE_SECRETS_DIR", "ENGINE_CONCURRENCY", "HOME", "HOST", "PORT"}


@attempt("starts processes without end", layer="the bound of processes", need="docker")
def test_a_fork_bomb_ends_at_its_bound(stack: StackHandle, note: Noted) -> None:
    count = _result(
        stack,
        FORK_BOMB.format(most=5_000),
    )
    note(f"{count} of 5,000")
    assert 0 < count < PIDS
    assert stack.submit(_OTHER, "well", tenant="tests")["output"] == "well"


@attempt("takes memory without end", layer="the bound of memory", need="docker")
def test_a_memory_bomb_ends_itself_alone_and_it_comes_back(stack: StackHandle, note: Noted) -> None:
    job = _job(stack, "result = len(bytearray(b'x') * (1 << 30))")
    note(str(job["error"]))
    assert job["status"] == "failed", job
    assert "wanted more memory than the 512 MiB" in job["error"]["message"]
    assert stack.submit(_OTHER, "well", tenant="tests")["output"] == "well"
    until(lambda: _job(stack, "result = 'again'")["output"] == "again", "it is started again", 60)


@attempt("connects to the internet", layer="no route", need=["docker", "root"])
@attempt("connects to a metadata address that answers this machine", layer="no route", need=["docker", "root"])
def test_what_answers_this_machine_does_not_answer_it(stack: StackHandle, note: Noted) -> None:
    if not has("root"):
        pytest.skip("stand-ins need a network namespace, which only root can make")
    with stand_ins() as addresses:
        answers = _result(stack, CONNECTS.format(targets=[(address, PORT) for address in addresses]))
    note(f"{', '.join(addresses)} answered this machine, and it got {', '.join(answers)}")
    assert "OPEN" not in answers


@attempt(
    "looks for its runner, other engines and sidecars among the processes",
    layer="its own processes only",
    need="docker",
)
def test_it_sees_no_process_but_its_own(stack: StackHandle, note: Noted) -> None:
    seen = _result(
        stack,
        """
import os
def line(pid):
    try:
        return open(f"/proc/{pid}/cmdline").read()
    except OSError:
        return ""
result = [found for pid in os.listdir("/proc") if pid.isdigit() and (found := line(pid))]
""",
    )
    note(f"{len(seen)} processes, all its own")
    assert any("enginehouse.engine" in line for line in seen), seen
    assert not [line for line in seen for word in ("runner", "daprd", "redis", "gateway", "cli.main") if word in line]


@attempt("reads the memory of this machine, and its disks", layer="own devices only", need="docker")
@attempt("writes to the kernel's settings", layer="/proc and /sys are read-only", need="docker")
@attempt("reads files of this machine: the home, the socket of Docker", layer="a root of its own", need="docker")
def test_it_has_no_device_setting_or_file_of_this_machine(stack: StackHandle, note: Noted) -> None:
    home = stack.home.path
    paths = [home, home / "local.json", home / "secrets", stack.home.run, "/var/run/docker.sock", "/var/lib/docker"]
    devices = ["/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore", "/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/kmsg"]
    settings = ["kernel/core_pattern", "vm/overcommit_memory", "net/ipv4/ip_forward", "kernel/hostname"]
    written = ["/proc/sysrq-trigger", *(f"/proc/sys/{name}" for name in settings), "/sys/kernel/uevent_helper"]
    found = _result(
        stack,
        f"""
import os
def can(path, flags):
    try:
        descriptor = os.open(path, flags)
        return bool(flags) or bool(os.read(descriptor, 16))
    except OSError:
        return False
result = dict(
    there=[path for path in {[str(path) for path in paths]} if os.path.exists(path)],
    read=[path for path in {devices} if can(path, os.O_RDONLY)],
    written=[path for path in {written} if can(path, os.O_WRONLY)],
    blocks=[name for name in os.listdir("/dev") if (os.stat("/dev/" + name).st_mode & 0o170000) == 0o060000],
)
""",
    )
    note(f"{len(paths) + len(devices) + len(written)} paths, none of them")
    assert found == {"there": [], "read": [], "written": [], "blocks": []}


@attempt("takes CPU without end", layer="its share of the cores", need="docker")
def test_it_has_no_more_cpu_than_its_share(stack: StackHandle, note: Noted) -> None:
    seconds, used, throttled = _result(
        stack,
        """
import os, time
def throttled():
    for path in ("/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat"):
        if os.path.exists(path):
            return int(dict(line.split() for line in open(path))["nr_throttled"])
before = throttled()
begun = time.monotonic()
children = []
for _ in range(4):
    if not (child := os.fork()):
        while time.monotonic() < begun + 3 or (time.monotonic() < begun + 30 and throttled() == before):
            pass
        os._exit(0)
    children.append(child)
used = sum(found.ru_utime + found.ru_stime for found in (os.wait4(child, 0)[2] for child in children))
result = [time.monotonic() - begun, used, throttled() - before]
""",
    )
    note(f"{used / seconds:.2f} cores of 0.5, held back {throttled} times")
    # On a busy machine it would get no more without the limit: it goes on until that has held it back.
    assert throttled > 0
    assert used < 0.5 * seconds * 1.3 + 0.2


@attempt("opens files and sockets without end", layer="the bound of open files", need="docker")
def test_open_files_and_sockets_end_at_their_bound(stack: StackHandle, note: Noted) -> None:
    opened, error = _result(
        stack,
        """
import socket
kept, error = [], None
try:
    while len(kept) < 100_000:
        kept.append(socket.socket())
except OSError as refused:
    error = refused.strerror
result = [len(kept), error]
for one in kept:
    one.close()
""",
    )
    note(f"{opened} of 100,000: {error}")
    assert error == "Too many open files"
    assert opened < OPEN_FILES
    assert stack.submit(_OTHER, "well", tenant="tests")["output"] == "well"


@attempt("takes the ports of its runner and sidecar while these restart", layer="a network of its own", need="docker")
def test_ports_that_it_takes_are_not_those_of_its_runner(stack: StackHandle, note: Noted) -> None:
    app = f"{_HOSTILE}--a"
    ports = [stack.processes()[f"{app}.{part}"]["port"] for part in ("runner", "daprd", "engine-0")]
    listening = _result(
        stack,
        f"""
import builtins, socket, threading
builtins.met, builtins.servers = [], []
def accept(server):
    while True:
        connection, address = server.accept()
        builtins.met.append([address[0], connection.recv(4096).decode(errors="replace")])
        connection.close()
for port in {ports}:
    server = socket.create_server(("0.0.0.0", port))
    builtins.servers.append(server)
    threading.Thread(target=accept, args=(server,), daemon=True).start()
result = len(builtins.servers)
""",
    )
    assert listening == len(ports)
    for part in ("daprd", "runner"):
        stack.until_restarted(f"{app}.{part}", stack.kill(f"{app}.{part}"))
    until(lambda: _job(stack, "result = 1")["status"] == "succeeded", "its jobs go on", 60)
    met = _result(stack, "import builtins; result = builtins.met")
    note(f"it listened on {', '.join(map(str, ports))}, and nobody came")
    assert met == []


@attempt("prints without end, to fill this machine's disk", layer="the bound of its log", need="docker")
def test_what_it_prints_ends_at_its_bound(stack: StackHandle, note: Noted) -> None:
    logs, name = stack.home.logs, f"{_HOSTILE}--a.engine-0"
    code = """
import os, threading
def flood():
    for _ in range(4 * 256):
        os.write(1, b"x" * (1 << 20))
threading.Thread(target=flood, daemon=True).start()
result = None
"""
    assert _result(stack, code) is None
    until(logs.joinpath(f"{name}.log.old").exists, "its replica has ended, and another one begins", 60)
    until(lambda: _job(stack, "result = 'again'")["output"] == "again", "it is started again", 60)
    sizes = [path.stat().st_size for path in logs.glob(f"{name}.log*")]
    note(
        f"its replica was started again, and its logs have {' and '.join(f'{size / 2**20:.0f} MiB' for size in sizes)}"
    )
    assert max(sizes) < LOG_BYTES + 2**20, "the supervisor's own words may stand behind its own"


def test_a_replica_that_is_killed_is_started_again_and_nothing_outlives_the_supervisor(stack: StackHandle) -> None:
    docker("kill", _container(stack, _OTHER))
    until(lambda: stack.processes()[f"{_OTHER}--a.engine-0"]["restarts"] == 1, "the replica is started again")
    assert left_by(stack.home.path)
    os.kill(stack.up.pid, signal.SIGKILL)
    stack.up.process.wait(10)
    until(lambda: not left_by(stack.home.path), "nothing outlives the supervisor", 60)
