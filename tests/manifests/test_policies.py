"""The cluster's admission policies say what the registry renders: no name of one is unknown to the other."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginehouse.contracts.engine import EngineSpec
from enginehouse.registry.kubernetes.labels import NODES, RUNTIME_CLASS, TOLERATES, pod_labels
from enginehouse.registry.kubernetes.runner_workload import runner_deployment
from enginehouse.registry.kubernetes.settings import ClusterSettings

_FOLDER = Path(__file__).resolve().parents[2] / "k8s" / "policies"
_DOCUMENTS = {
    path.name: list(yaml.safe_load_all(path.read_text()))
    for path in sorted(_FOLDER.glob("*.yaml"))
    if path.name != "kustomization.yaml"
}
_POLICIES = [item for items in _DOCUMENTS.values() for item in items if item["kind"] == "ValidatingAdmissionPolicy"]
_BINDINGS = [
    item for items in _DOCUMENTS.values() for item in items if item["kind"] == "ValidatingAdmissionPolicyBinding"
]
_DEPLOYMENTS = (_FOLDER / "deployments.yaml").read_text()


def _runner() -> dict[str, Any]:
    spec = EngineSpec(tenant="acme", name="one", image=f"a@sha256:{'a' * 64}")
    template: dict[str, Any] = runner_deployment(spec, "a", {}, "", sleeps=False, cluster=ClusterSettings())["spec"][
        "template"
    ]
    return template


def test_a_runner_may_have_the_annotations_that_are_rendered_and_no_others() -> None:
    named = set(re.findall(r"'(dapr\.io/[a-z0-9-]+)'", _DEPLOYMENTS))
    assert named == {name for name in _runner()["metadata"]["annotations"] if name.startswith("dapr.io/")}


def test_a_runner_may_have_the_variables_that_are_rendered_and_no_others() -> None:
    named = set(re.findall(r"'([A-Z]+_[A-Z_]+)'", _DEPLOYMENTS))
    (container,) = _runner()["spec"]["containers"]
    assert named == {variable["name"] for variable in container["env"]}


def test_pods_may_have_the_labels_that_are_rendered_and_no_others() -> None:
    named = set(re.findall(r"'((?:app\.kubernetes\.io|enginehouse\.dev)/[a-z-]+)'", _DEPLOYMENTS))
    annotations = {name for name in _runner()["metadata"]["annotations"] if not name.startswith("dapr.io/")}
    annotations.add("enginehouse.dev/credentials")  # Whoever applies it adds the hash of its Secrets.
    assert named == {*pod_labels("acme--one", "a", "runner"), *annotations, RUNTIME_CLASS, NODES, TOLERATES}


@pytest.mark.parametrize("policy", _POLICIES, ids=lambda item: item["metadata"]["name"])
def test_a_policy_holds_and_refuses(policy: dict[str, Any]) -> None:
    (binding,) = [one for one in _BINDINGS if one["spec"]["policyName"] == policy["metadata"]["name"]]
    assert binding["spec"]["validationActions"] == ["Deny"]
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert ("paramRef" in binding["spec"]) == ("paramKind" in policy["spec"])
    assert binding["spec"].get("paramRef", {}).get("parameterNotFoundAction", "Deny") == "Deny"


def test_who_controls_is_said_in_one_way() -> None:
    said: dict[str, set[str]] = {}
    for policy in _POLICIES:
        for variable in policy["spec"].get("variables", []):
            if variable["name"] in ("isController", "isMaker", "tenant"):
                said.setdefault(variable["name"], set()).add(variable["expression"])
    assert {name: len(expressions) for name, expressions in said.items()} == dict.fromkeys(said, 1)


def test_every_file_is_applied() -> None:
    listed = yaml.safe_load((_FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(_DOCUMENTS)
