"""The load generator: wrk, which needs a tenth of a core for what these systems answer, and so is not the bottleneck."""

import json
import shutil
import subprocess
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
    found = shutil.which("wrk")
    if found is None:
        raise LoadFailed("wrk is not installed. Debian and Ubuntu: apt-get install wrk")
    return found


def post_jobs(target: Target, kind: Kind, connections: int, seconds: int) -> Load:
    """Post jobs on so many connections; `wait`: each answered with its result, `submit`: accepted."""
    command = [find_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(SCRIPT)]
    arguments = [target.url, "--", target.path, kind, target.api_key or "-"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=seconds + 60)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise LoadFailed(f"wrk: {done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    count = result["ended"] if kind == "wait" else result["accepted"]
    if result["refused"] or result["broken"] or not count or result["ended"] + result["accepted"] != count:
        raise LoadFailed(f"{target.url}{target.path} {kind}: {result}")
    return Load(count / result["seconds"], count, result["p50_ms"], result["p99_ms"])
