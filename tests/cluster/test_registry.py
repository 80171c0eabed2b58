"""Engines and tenants come, change, are stopped and go through the registry, while jobs go on and none is lost."""

import time
from pathlib import Path

import pytest
import yaml
from tests.support.cluster import gitops
from tests.support.cluster.caller import start_load
from tests.support.cluster.images import engine_image
from tests.support.cluster.kube import Object, eventually, get, kubectl, listed, pods
from tests.support.cluster.operator import PLACE, Operator

_TENANT, _ENGINE = "client", "client--sleeps"
_NAMESPACE = f"tenant-{_TENANT}"
_SLEEPS = Path(__file__).resolve().parents[1] / "engines" / "sleeps"
_WAIT = ("--to", PLACE, "--timeout", "180")


@pytest.fixture(scope="module")
def key(operator: Operator, folder: Path) -> str:
    """Make a tenant and deploy its engine; return the tenant's key."""
    made = operator.add_tenant(_TENANT)
    deployed = operator.does("engines", "deploy", str(folder), *_WAIT)
    assert deployed["version"] == "v1"
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    example = {"version": "v1", "execution_timeout_seconds": 15}
    made = gitops.engine_folder(tmp_path_factory.mktemp("client"), "sleeps", _ENGINE, **example)
    (made / "example.json").write_text('{"seconds": 0}')
    return made


def to_version(folder: Path, version: str) -> None:
    spec = yaml.safe_load((folder / "engine.yaml").read_text())
    spec |= {"version": version, "image": engine_image(_SLEEPS, version)}
    (folder / "engine.yaml").write_text(yaml.safe_dump(spec))


def versions(operator: Operator) -> dict[str, str]:
    workers = pods(_NAMESPACE, {"app.kubernetes.io/name": "engine"})
    return {pod["metadata"]["labels"]["enginehouse.dev/slot"]: pod["spec"]["containers"][0]["image"] for pod in workers}


def test_a_tenant_and_its_engine_that_were_added_are_answered(key: str) -> None:
    assert start_load(key, "sleeps", 20).end().ends == {"succeeded": 20}


def test_nothing_differs_from_the_bundle_until_somebody_edits_it_in_the_cluster(operator: Operator, key: str) -> None:
    same = operator.command("engines", "diff", _ENGINE, "--to", PLACE)
    assert (same.returncode, same.stderr) == (0, ""), same.stdout
    kubectl("-n", _NAMESPACE, "scale", f"deployment/{_ENGINE}--a", "--replicas=2")
    differs = operator.command("engines", "diff", _ENGINE, "--to", PLACE)
    assert differs.returncode == 1
    assert "replicas" in differs.stdout
    kubectl("-n", _NAMESPACE, "scale", f"deployment/{_ENGINE}--a", "--replicas=1")


def test_a_new_version_takes_over_under_load_and_goes_back_and_no_job_is_lost(
    operator: Operator, key: str, folder: Path
) -> None:
    load = start_load(key, "sleeps", 900, per_second=15)
    time.sleep(2)
    to_version(folder, "v2")
    deployed = operator.does("engines", "deploy", str(folder), *_WAIT)
    assert deployed["version"] == "v2"
    eventually(lambda: list(versions(operator)) == ["b"], "the version before has ended", 120)
    operator.does("engines", "rollback", _ENGINE, *_WAIT)
    eventually(lambda: list(versions(operator)) == ["a"], "the version after has ended", 120)
    assert load.end().ends == {"succeeded": 900}


def test_a_version_that_does_not_answer_its_own_example_gets_no_jobs(
    operator: Operator, key: str, folder: Path
) -> None:
    to_version(folder, "v3")
    (folder / "example.json").write_text('{"seconds": -5}')
    refused = operator.command("engines", "deploy", str(folder), *_WAIT)
    assert refused.returncode == 1
    assert "example.json" in refused.stderr
    assert start_load(key, "sleeps", 5).end().ends == {"succeeded": 5}
    (folder / "example.json").write_text('{"seconds": 0}')


def test_a_quarantined_engine_is_gone_from_the_cluster_and_its_jobs_wait_until_it_is_resumed(
    operator: Operator, key: str
) -> None:
    operator.gateway("POST", f"/v1/engines/{_ENGINE}/quarantine", {"reason": "wrong answers"})
    eventually(lambda: not listed("pods", _NAMESPACE), "no pod of it is left", 60)
    waiting = start_load(key, "sleeps", 5)
    time.sleep(5)
    assert listed("pods", _NAMESPACE) == []
    operator.gateway("POST", f"/v1/engines/{_ENGINE}/resume")
    assert waiting.end().ends == {"succeeded": 5}


def test_what_is_removed_leaves_nothing(operator: Operator, key: str) -> None:
    operator.registry("DELETE", f"/v1/engines/{_ENGINE}")
    kinds = (
        "deployments,services,components.dapr.io,subscriptions.dapr.io,configmaps,scaledobjects.keda.sh,networkpolicies"
    )

    def left() -> list[Object]:
        return listed(kinds, _NAMESPACE, {"enginehouse.dev/engine": _ENGINE})

    eventually(lambda: not left(), "nothing of the engine is left", 120)
    operator.registry("DELETE", f"/v1/tenants/{_TENANT}")
    eventually(lambda: get("namespace", _NAMESPACE, "default") is None, "the namespace is gone", 120)
