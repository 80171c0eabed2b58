"""Talk to the cluster of the tests through kubectl, as its users do."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Object = dict[str, Any]
T = TypeVar("T")
_POLL_SECONDS = 0.4


def kubeconfig() -> Path | None:
    """Return the file that KUBECONFIG names, if there is one: the cluster that the tests may use, and change."""
    named = os.environ.get("KUBECONFIG")
    return Path(named) if named and Path(named).is_file() and shutil.which("kubectl") else None


def run(*arguments: str, stdin: str | bytes = "", seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run kubectl, whatever becomes of it."""
    text = stdin.decode() if isinstance(stdin, bytes) else stdin
    return subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=seconds, check=False
    )


def kubectl(*arguments: str, stdin: str | bytes = "", seconds: float = 120) -> str:
    """Run kubectl and return what it prints. Fail with its words if it does not succeed."""
    done = run(*arguments, stdin=stdin, seconds=seconds)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.strip()[-2_000:]}"
    return done.stdout


def apply(objects: Iterable[Object]) -> None:
    """Apply objects, with strict validation of their fields."""
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    kubectl("apply", "--validate=strict", "-f", "-", stdin=json.dumps(items))


def get(kind: str, name: str, namespace: str) -> Object | None:
    """Return an object; None if there is none."""
    found = kubectl("-n", namespace, "get", kind, name, "--ignore-not-found", "-o", "json")
    return json.loads(found) if found.strip() else None


def listed(kind: str, namespace: str, labels: Mapping[str, str] | None = None) -> list[Object]:
    """Return the objects of a kind with these labels."""
    selector = ["-l", ",".join(f"{name}={value}" for name, value in labels.items())] if labels else []
    return list(json.loads(kubectl("-n", namespace, "get", kind, *selector, "-o", "json"))["items"])


def pods(namespace: str, labels: Mapping[str, str] | None = None) -> list[Object]:
    """Return the pods that are not being deleted."""
    return [pod for pod in listed("pods", namespace, labels) if "deletionTimestamp" not in pod["metadata"]]


def roll_out(kind_and_name: str, namespace: str, seconds: int = 180) -> None:
    """Wait until a workload is rolled out. Fail with the state of its pods if it is not in time."""
    done = run("-n", namespace, "rollout", "status", kind_and_name, f"--timeout={seconds}s", seconds=seconds + 20)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{state_of(namespace)}"


def state_of(namespace: str) -> str:
    """Say how a namespace is, for a failed test: its pods, the last events, and the last words of what is not well."""
    parts = [run("-n", namespace, "get", "pods", "-o", "wide").stdout]
    parts.append(run("-n", namespace, "get", "events", "--sort-by=.lastTimestamp").stdout[-3_000:])
    for pod in json.loads(run("-n", namespace, "get", "pods", "-o", "json").stdout or '{"items": []}')["items"]:
        statuses = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
        for status in statuses:
            if not status.get("ready") and status.get("state", {}).get("terminated", {}).get("exitCode") != 0:
                name = pod["metadata"]["name"]
                parts.append(f"-- {name} {status['name']}")
                parts.append(run("-n", namespace, "logs", name, "-c", status["name"], "--tail=15").stdout[-2_000:])
    return "\n".join(parts)


def eventually(ready: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """Wait until `ready` returns something true, and return it. A look is a command, so the pause between two is long."""
    deadline = time.monotonic() + seconds
    while not (value := ready()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(_POLL_SECONDS)
    return value


def replicas(deployment: str, namespace: str) -> int:
    """Return how many pods a Deployment is to have; 0 if there is none of the name."""
    found = get("deployment", deployment, namespace)
    return int(found["spec"].get("replicas", 0)) if found else 0
