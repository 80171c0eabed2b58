"""A real Docker Engine for tests, where one answers."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.hardening import Sandbox
from enginehouse.local.guard import Guard


def docker(*arguments: str) -> str:
    """Run the docker command and return what it prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def skip_without_docker() -> None:
    """Skip the test if no Docker Engine answers."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command: apt-get install docker.io")
    answer = subprocess.run(["docker", "version"], capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode:
        pytest.skip(f"no Docker Engine answers: {answer.stderr.strip()}")


def inspect(name: str) -> dict[str, Any]:
    """Return what the Docker Engine says of a container."""
    found: dict[str, Any] = json.loads(docker("inspect", name))[0]
    return found


def left_by(home: Path) -> list[str]:
    """Return every container, network and volume that carries the label of a home."""
    label = f"label={Docker(Guard(), home.resolve()).labels()[0]}"
    kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
    return [name for kind in kinds for name in docker(*kind, "--quiet", "--filter", label).split()]


def skip_without_sandbox(sandbox: Sandbox) -> None:
    """Skip the test if no Docker Engine answers that knows this sandbox."""
    skip_without_docker()
    if sandbox.runtime not in json.loads(docker("info", "--format", "{{json .Runtimes}}")):
        pytest.skip(f"the Docker Engine knows no {sandbox.runtime}: .ci/with-docker starts one that does")
