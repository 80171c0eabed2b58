"""A pod from which tests call the API as a client in the cluster does, through the gateway's Service."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cluster.kube import apply, kubectl

NAMESPACE = "enginehouse-tests"
GATEWAY = "http://gateway.enginehouse.svc.cluster.local:8080"
_LOAD = Path(__file__).with_name("load.py")


@dataclass(frozen=True)
class Load:
    """What became of a load."""

    ends: dict[str, int]
    """Number of jobs by their final status; `unfinished` are those that did not end in time."""
    errors: dict[str, int]
    attempts: dict[str, int]
    first_seconds: float | None
    """From the first submit to the first end."""
    seconds: float


class RunningLoad:
    """A load that runs in the caller's pod."""

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        self._process, self._seconds = process, seconds

    def end(self) -> Load:
        """Wait until all its jobs have ended, and return what became of them."""
        said, errors = self._process.communicate(timeout=self._seconds)
        assert self._process.returncode == 0, errors[-2_000:]
        found: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
        return Load(**found)


def start_caller(image: str) -> None:
    """Start the pod."""
    container = {
        "name": "caller",
        "image": image,
        "command": ["python", "-c", "import time; time.sleep(1_000_000)"],
        "resources": {"limits": {"memory": "512Mi"}},
    }
    pod = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    apply(
        [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "caller", "namespace": NAMESPACE},
                "spec": pod,
            },
        ]
    )
    kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/caller", "--timeout=60s")


def start_load(
    key: str,
    engine: str,
    jobs: int,
    *,
    per_second: float = 20,
    nap_seconds: float = 0.05,
    patience_seconds: float = 240,
) -> RunningLoad:
    """Submit so many jobs of an engine that sleeps, with a tenant's key, while the test goes on."""
    numbers = [str(number) for number in (jobs, per_second, nap_seconds, patience_seconds)]
    command = ["kubectl", "-n", NAMESPACE, "exec", "-i", "caller", "--", "env", f"ENGINEHOUSE_API_KEY={key}"]
    given = [*command, "python", "-", GATEWAY, engine, *numbers]
    with _LOAD.open() as program:
        process = subprocess.Popen(given, stdin=program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return RunningLoad(process, jobs / per_second + patience_seconds + 60)
