"""The load generator: wrk, which needs a tenth of a core for what these systems answer, and so is not the bottleneck."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SCRIPT = Path(__file__).with_name("job.lua")

Kind = Literal["wait", "submit"]


class LoadFailed(RuntimeError):
    """Not every request was answered as it should have been."""


@dataclass(frozen=True)
class Target:
    """Where jobs are posted."""

    url: str
    path: str
    api_key: str | None = None


@dataclass(frozen=True)
class Load:
    """What a burst of requests measured."""

    per_second: float
    count: int
    p50_ms: float
    p99_ms: float


def find_wrk() -> str:
    """Return the path of wrk. Raise LoadFailed if it is not installed."""
    found = shutil.which("wrk")
    if found is None:
        raise LoadFailed("wrk is not installed. Debian and Ubuntu: apt-get install wrk")
    return found


def post_jobs(targets: Sequence[Target], kind: Kind, connections: int, seconds: int) -> Load:
    """Post jobs on so many connections, shared by the targets. `wait`: each is answered with its result; `submit`: accepted.

    The latencies of several targets are those of the slowest. Raise LoadFailed if any answer is another one.
    """
    running = [_start(target, kind, connections // len(targets), seconds) for target in targets]
    loads = [_judged(target, kind, process, seconds) for target, process in zip(targets, running, strict=True)]
    return Load(
        sum(load.per_second for load in loads),
        sum(load.count for load in loads),
        max(load.p50_ms for load in loads),
        max(load.p99_ms for load in loads),
    )


def takes_jobs(targets: Sequence[Target]) -> bool:
    """Return whether each of the targets answers a job with its result within a second."""
    try:
        post_jobs(targets, "wait", len(targets), 1)
    except LoadFailed:
        return False
    return True


def _start(target: Target, kind: Kind, connections: int, seconds: int) -> subprocess.Popen[str]:
    command = [find_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(SCRIPT)]
    arguments = [target.url, "--", target.path, kind, target.api_key or "-"]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _judged(target: Target, kind: Kind, process: subprocess.Popen[str], seconds: int) -> Load:
    said, _ = process.communicate(timeout=seconds + 60)
    line = next((line for line in said.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise LoadFailed(f"wrk: {said}")
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    count = result["ended"] if kind == "wait" else result["accepted"]
    if result["refused"] or result["broken"] or not count or result["ended"] + result["accepted"] != count:
        raise LoadFailed(f"{target.url}{target.path} {kind}: {result}")
    return Load(count / result["seconds"], count, result["p50_ms"], result["p99_ms"])
