"""A hostile engine in gVisor meets another kernel than the host's, and is bounded as it is without."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.abuse.hostile_code import CONNECTS, FORK_BOMB, WRITES
from tests.support.break_ins import Noted, attempt
from tests.support.docker import inspect, skip_without_sandbox
from tests.support.stack import StackHandle, start_stack, until

from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.hardening import Sandbox
from enginehouse.local.guard import Guard
from enginehouse.local.home import Home
from enginehouse.registry.secrets import set_secret

_ENGINES = Path(__file__).resolve().parents[2] / "engines"
_HOSTILE = "tests--breaks-out"
pytestmark = pytest.mark.timeout(600)  # The first run makes images.


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    skip_without_sandbox(Sandbox.GVISOR)
    folder = tmp_path_factory.mktemp("gvisor")
    set_secret(Home.at(folder).path, _HOSTILE, "MODEL_TOKEN", "very-secret-value")
    handle = start_stack(folder, [_ENGINES / "breaks_out"], in_containers=True, sandbox=Sandbox.GVISOR)
    try:
        yield handle
    finally:
        handle.stop()


def _job(stack: StackHandle, code: str) -> Any:
    return stack.submit(_HOSTILE, {"code": code}, tenant="tests", wait=60)


def _result(stack: StackHandle, code: str) -> Any:
    """Return what the hostile engine calls `result` when it has run the code."""
    job = _job(stack, code)
    assert job["status"] == "succeeded", job
    return job["output"]


def _container(stack: StackHandle, part: str) -> dict[str, Any]:
    return inspect(f"{Docker(Guard(), stack.home.path).prefix}-{_HOSTILE}--a.{part}")


@attempt("in gVisor meets the kernel of the host", layer="another kernel answers its calls", need="gvisor")
@attempt(
    "in gVisor acts as root, or by a capability", layer="uid 1000, no capability, no new privileges", need="gvisor"
)
def test_its_kernel_is_not_the_hosts(stack: StackHandle, note: Noted) -> None:
    version, status = _result(stack, "result = [open(f'/proc/{name}').read() for name in ('version', 'self/status')]")
    note(version.strip())
    assert "gvisor" in version
    assert version != Path("/proc/version").read_text()
    found = dict(line.split(":", 1) for line in status.splitlines())
    facts = {name: found[name].split() for name in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs")}
    assert facts == {
        "Uid": ["1000"] * 4,
        "Gid": ["3000"] * 4,
        "CapEff": ["0" * 16],
        "CapBnd": ["0" * 16],
        "NoNewPrivs": ["1"],
    }
    # The relay is ours, and stands in two networks.
    assert [_container(stack, part)["HostConfig"]["Runtime"] for part in ("engine-0", "relay-0")] == ["runsc", "runc"]


@attempt("in gVisor connects to the host, the metadata address, a name", layer="a network of its own", need="gvisor")
def test_its_network_has_nobody_but_its_relay(stack: StackHandle, note: Noted) -> None:
    own = [found.address for them in psutil.net_if_addrs().values() for found in them if found.family == socket.AF_INET]
    network = next(iter(_container(stack, "engine-0")["NetworkSettings"]["Networks"].values()))
    gateway = f"{network['IPAddress'].rpartition('.')[0]}.1"
    with socket.create_server(("0.0.0.0", 0)) as server:  # The kernel completes connections to it, accepted or not.
        port = server.getsockname()[1]
        targets = [(address, port) for address in {*own, gateway}] + [("169.254.169.254", 80), ("example.com", 80)]
        for address in own:
            socket.create_connection((address, port), 5).close()
        answers = _result(
            stack,
            CONNECTS.format(targets=targets),
        )
    note(f"{len(answers)} refused")
    assert "OPEN" not in answers, dict(zip(targets, answers, strict=True))


@attempt(
    "in gVisor writes outside of its scratch, or fills the disk",
    layer="a read-only root, a bounded /tmp",
    need="gvisor",
)
def test_it_writes_to_its_scratch_only_until_that_is_full(stack: StackHandle, note: Noted) -> None:
    found = _result(
        stack,
        WRITES.format(
            tried=["/x", "/engine/x", "/etc/x", "/secrets/x", "/sys/fs/cgroup/x", "/sys/fs/cgroup/memory/x", "/dev/x"]
        ),
    )
    note(f"full after {found['bytes'] >> 20} MiB")
    assert found == {
        "written": [],
        "full": "No space left on device",
        "bytes": 256 * 2**20,
        "ran": "Permission denied",
    }


@attempt("in gVisor starts processes without end", layer="the bound of processes", need="gvisor")
def test_a_fork_bomb_ends_at_its_bound(stack: StackHandle, note: Noted) -> None:
    job = _job(
        stack,
        FORK_BOMB.format(most=1_000),
    )
    note(f"{job.get('output')} of 1,000, {job['status']}")
    # Where its own kernel gets no more threads, it ends as a whole.
    assert job["status"] == "failed" or 0 < job["output"] < 1000, job
    until(lambda: _job(stack, "result = 'again'")["output"] == "again", "it works again", 60)


@attempt("in gVisor takes memory without end", layer="the bound of memory", need="gvisor")
def test_a_memory_bomb_ends_its_sandbox_and_it_comes_back(stack: StackHandle, note: Noted) -> None:
    job = _job(stack, "result = len(bytearray(b'x') * (1 << 30))")
    note(str(job["error"]))
    assert job["status"] == "failed", job
    assert "wanted more memory than the 512 MiB" in job["error"]["message"]
    until(lambda: _job(stack, "result = 'again'")["output"] == "again", "it is started again", 60)
