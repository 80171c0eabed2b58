"""An engine that may sleep: from zero to as many replicas as its jobs need, and back, and no job is lost."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.support.cluster import gitops
from tests.support.cluster.caller import start_load
from tests.support.cluster.kube import eventually, kubectl, listed, pods, replicas
from tests.support.cluster.operator import Operator

_NAMESPACE, _ENGINE = "tenant-burst", "burst--sleeps"
_APP = f"{_ENGINE}--a"
_LIGHT = "light"
_COLD_SECONDS = 10
_ASLEEP_AFTER = {"asleep_after_seconds": 10}


@pytest.fixture(scope="module")
def key(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with operator.tenants("burst") as keys:
        gitops.add_engine_secrets(_ENGINE)
        settings = {"concurrency": 2, "execution_timeout_seconds": 10, "scale": {"min": 0, "max": 3}}
        folder = gitops.engine_folder(tmp_path_factory.mktemp("burst"), "sleeps", _ENGINE, **settings)
        gitops.deploy(folder, _ASLEEP_AFTER)
        yield keys["burst"]


@pytest.fixture(scope="module")
def light(key: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Deploy an engine that starts with half a processor, and return its name."""
    gitops.add_engine_secrets(f"burst--{_LIGHT}")
    settings = {
        "execution_timeout_seconds": 10,
        "scale": {"min": 0, "max": 1},
        "resources": {"cpu": "500m", "memory": "192Mi"},
    }
    folder = gitops.engine_folder(tmp_path_factory.mktemp("light"), "sleeps", f"burst--{_LIGHT}", **settings)
    gitops.deploy(folder, _ASLEEP_AFTER)
    return _LIGHT


def asleep(app: str = _APP) -> bool:
    return replicas(app, _NAMESPACE) == 0 == replicas(f"{app}-runner", _NAMESPACE)


def test_from_zero_to_three_under_a_burst_and_back_with_no_job_lost(key: str) -> None:
    eventually(asleep, "the engine has gone to sleep", 120)
    load = start_load(key, "sleeps", 120, per_second=40, nap_seconds=1.0)
    eventually(lambda: replicas(_APP, _NAMESPACE) == 3, "three replicas", 90)
    assert load.end().ends == {"succeeded": 120}
    eventually(asleep, "the engine sleeps again", 180)
    status = json.loads(kubectl("-n", _NAMESPACE, "get", "scaledobject", _APP, "-o", "json"))["status"]
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert conditions["Ready"] == "True"
    assert conditions["Active"] == "False"


def started(role: str) -> dict[str, datetime]:
    """Return when the pod of the light engine's role was made, when each of its containers ran, and when it was ready."""
    labels = {"enginehouse.dev/engine": f"burst--{_LIGHT}", "app.kubernetes.io/name": role}
    status = pods(_NAMESPACE, labels)[0]
    containers = [*status["status"].get("initContainerStatuses", []), *status["status"]["containerStatuses"]]
    moments = {one["name"]: one["state"]["running"]["startedAt"] for one in containers}
    conditions = {one["type"]: one["lastTransitionTime"] for one in status["status"]["conditions"]}
    moments |= {f"{role} made": status["metadata"]["creationTimestamp"], f"{role} ready": conditions["Ready"]}
    return {name: datetime.fromisoformat(moment) for name, moment in moments.items()}


def test_the_first_answer_of_a_light_engine_that_sleeps_comes_soon(key: str, light: str) -> None:
    took = []
    for _ in range(3):
        eventually(lambda: asleep(f"burst--{light}--a"), "the engine sleeps", 180)
        eventually(
            lambda: not listed("pods", _NAMESPACE, {"enginehouse.dev/engine": f"burst--{light}"}), "no pod is left", 90
        )
        begun = datetime.now(UTC)
        first = start_load(key, light, 1, nap_seconds=0.01).end().first_seconds
        assert first is not None
        took.append(first)
        parts = sorted((started("engine") | started("runner")).items(), key=lambda part: part[1])
        said = ", ".join(f"{name} {(moment - begun).total_seconds():.0f}" for name, moment in parts)
        print(f"first answer after {first:.1f} s; seconds since the command: {said}")
    assert sorted(took)[1] < _COLD_SECONDS, took
