"""What a container may do and use, as arguments of `docker create`."""

import os
from enum import StrEnum
from pathlib import Path

from enginehouse.contracts.engine import CONTAINER_GROUP, CONTAINER_USER, Resources
from enginehouse.contracts.quantities import parse_quantity

USER = f"{CONTAINER_USER}:{CONTAINER_GROUP}"
SECCOMP = Path(__file__).with_name("seccomp.json")
"""The system calls that a container of ours may make: fewer than Docker's own profile allows."""
PIDS = 512
"""Most processes and threads of an engine's container."""
OPEN_FILES = 8_192
LOG_BYTES = 256 * 2**20
"""Largest log of a container. What shows its output ends there; it is started again, and the log before is kept."""
_RELAY = Resources(cpu="1", memory="128Mi")
_RELAY_PIDS = 16
_LEAST_MEMORY_BYTES = 6 * 2**20
"""Docker takes no lower limit."""


class Sandbox(StrEnum):
    """What an engine's container runs in, where that is not the kernel of the host alone."""

    GVISOR = "gvisor"

    @property
    def runtime(self) -> str:
        """Return the name under which a Docker Engine knows it."""
        return "runsc"


def engine_limits(resources: Resources, sandbox: Sandbox | None = None) -> list[str]:
    """Return the arguments that harden an engine's container and bound it as its engine.yaml says."""
    runtime = [f"--runtime={sandbox.runtime}"] if sandbox else []
    gpu = ["--gpus", str(resources.gpu)] if resources.gpu else []
    return [
        *_hardened(resources, PIDS),
        *runtime,
        "--tmpfs",
        f"/tmp:rw,noexec,nosuid,nodev,size={resources.scratch_bytes}",  # noqa: S108 - the container's own
        *gpu,
    ]


def relay_limits() -> list[str]:
    """Return the arguments that harden a relay's container."""
    # It is on two networks, and no packet may pass from one to the other.
    return [*_hardened(_RELAY, _RELAY_PIDS), "--sysctl", "net.ipv4.ip_forward=0"]


def _hardened(resources: Resources, pids: int) -> list[str]:
    memory = str(max(resources.memory_bytes, _LEAST_MEMORY_BYTES))
    cpus = max(0.01, min(float(parse_quantity(resources.cpu)), os.cpu_count() or 1))  # Docker refuses others.
    return [
        "--rm",
        "--init",
        "--pull=never",
        f"--user={USER}",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        f"--security-opt=seccomp={SECCOMP}",
        f"--memory={memory}",
        f"--memory-swap={memory}",  # The same number: no swap.
        f"--cpus={cpus:.2f}",
        f"--pids-limit={pids}",
        f"--ulimit=nofile={OPEN_FILES}:{OPEN_FILES}",
        "--ulimit=core=0:0",
        "--shm-size=64m",
        "--ipc=private",
        "--no-healthcheck",
        # Docker's own name server would ask the host's for other names than those of containers beside it.
        "--dns=127.0.0.1",
        "--dns-search=.",
        "--dns-opt=timeout:1",
        "--dns-opt=attempts:1",
        # What it prints goes to the log of its process, and is not written a second time.
        "--log-driver=none",
    ]
