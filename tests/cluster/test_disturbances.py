"""Whatever is killed, drained, rolled or restarted under load: each accepted job ends once, and none is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.cluster import gitops
from tests.support.cluster.caller import start_load
from tests.support.cluster.core import NAMESPACE
from tests.support.cluster.kube import eventually, kubectl, pods, roll_out, run
from tests.support.cluster.operator import Operator

_JOBS, _PER_SECOND = 300, 20
_TENANTS = ("acme", "umbra")
_ONE = "tenant-acme"


@dataclass(frozen=True)
class Two:
    """Two tenants' API keys, each of which has an engine `sleeps`."""

    acme: str
    umbra: str


@pytest.fixture(scope="module")
def two(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with operator.tenants(*_TENANTS) as keys:
        for tenant in _TENANTS:
            gitops.add_engine_secrets(f"{tenant}--sleeps")
            folder = tmp_path_factory.mktemp(tenant)
            gitops.deploy(gitops.engine_folder(folder, "sleeps", f"{tenant}--sleeps", execution_timeout_seconds=20))
        yield Two(**keys)


def killed(role: str, *how: str) -> None:
    kubectl("-n", _ONE, "delete", "pod", "-l", f"app.kubernetes.io/name={role}", "--wait=false", *how)


def kill_runner() -> None:
    killed("runner", "--grace-period=0", "--force")


def kill_engine() -> None:
    killed("engine", "--grace-period=0", "--force")


def stop_runner() -> None:
    killed("runner")


def roll_gateway() -> None:
    kubectl("-n", NAMESPACE, "rollout", "restart", "deployment/gateway")
    roll_out("deployment/gateway", NAMESPACE)


def restart(server: str) -> None:
    before = pods(NAMESPACE, {"app.kubernetes.io/name": server})[0]["metadata"]["uid"]
    kubectl("-n", NAMESPACE, "delete", "pod", f"{server}-0")
    eventually(
        lambda: [
            pod for pod in pods(NAMESPACE, {"app.kubernetes.io/name": server}) if pod["metadata"]["uid"] != before
        ],
        f"{server} is another pod",
    )
    roll_out(f"statefulset/{server}", NAMESPACE)


def drain_node() -> None:
    """Drain the node of the runner. The only node of a test's cluster is opened again, or nothing could start anywhere."""
    node = pods(_ONE, {"app.kubernetes.io/name": "runner"})[0]["spec"]["nodeName"]
    opened = threading.Timer(8, run, ["uncordon", node])
    opened.start()
    ours = "app.kubernetes.io/part-of=enginehouse"
    done = run(
        "drain", node, "--delete-emptydir-data", "--force", f"--pod-selector={ours}", "--timeout=120s", seconds=150
    )
    opened.join()
    assert done.returncode == 0, done.stderr


DISTURBANCES: list[Callable[[], None]] = [
    kill_runner,
    kill_engine,
    stop_runner,
    roll_gateway,
    lambda: restart("redis"),
    lambda: restart("postgres"),
    drain_node,
]
_NAMES = ["runner-killed", "engine-killed", "runner-stopped", "gateway-rolled", "redis", "postgres", "node-drained"]


@pytest.mark.parametrize("disturb", DISTURBANCES, ids=_NAMES)
def test_no_job_of_either_tenant_is_lost(two: Two, disturb: Callable[[], None]) -> None:
    loads = [start_load(key, "sleeps", _JOBS, per_second=_PER_SECOND) for key in (two.acme, two.umbra)]
    time.sleep(4)  # The load has begun, and goes on for as long as the disturbance lasts.
    disturb()
    for load in loads:
        assert load.end().ends == {"succeeded": _JOBS}


def test_an_engine_that_is_added_answers_and_nothing_else_changes(two: Two, tmp_path: Path) -> None:
    def running() -> dict[str, tuple[int, int]]:
        return {
            pod["metadata"]["uid"]: tuple(status["restartCount"] for status in pod["status"]["containerStatuses"])
            for namespace in (NAMESPACE, _ONE, "tenant-umbra")
            for pod in pods(namespace)
        }

    roll_out("deployment/gateway", NAMESPACE)
    before = running()
    gitops.add_engine_secrets("umbra--late")
    gitops.deploy(gitops.engine_folder(tmp_path, "sleeps", "umbra--late"))
    assert start_load(two.umbra, "late", 10).end().ends == {"succeeded": 10}
    after = running()
    assert {uid: after.get(uid) for uid in before} == before
