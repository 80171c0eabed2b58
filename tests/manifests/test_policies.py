"""The cluster's admission policies say what the registry renders: no name of one is unknown to the other."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.rendered import every_shape, spec_of

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.job import MAX_EXECUTION_SECONDS
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.bundle import render_tenant
from enginehouse.registry.kubernetes.engine_workload import engine_pod
from enginehouse.registry.kubernetes.labels import NODES, RUNTIME_CLASS, TOLERATES, pod_labels
from enginehouse.registry.kubernetes.runner_workload import runner_deployment
from enginehouse.registry.kubernetes.settings import ClusterSettings, Placement
from enginehouse.registry.objects import REDIS_ADDRESS, marker, tolerant

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
_DEPLOYMENTS, _GATEWAY = ((_FOLDER / f"{name}.yaml").read_text() for name in ("deployments", "gateway"))


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


def _fields(text: str, before: str) -> set[str]:
    """Return the names of the first list of fields after some words of a policy."""
    listed = re.search(r"field in \[([^\]]+)\]", text[text.index(before) :])
    assert listed is not None
    return set(re.findall(r"'(\w+)'", listed[1]))


def test_pods_and_runners_have_no_fields_that_their_policy_does_not_know() -> None:
    pod_fields = _fields(_DEPLOYMENTS, "variables.spec.all(") | {"dnsConfig", "shareProcessNamespace"}
    pods = [
        template["spec"]
        for parts in every_shape().values()
        for part in parts
        for item in part.objects()
        if (template := item.get("spec", {}).get("jobTargetRef", item.get("spec", {})).get("template"))
    ]
    assert {field for pod in pods for field in pod} <= pod_fields
    (runner,) = _runner()["spec"]["containers"]
    assert set(runner) <= _fields(_DEPLOYMENTS, "variables.container.all(")
    assert "workingDir" not in _fields(_DEPLOYMENTS, "variables.container.all(")


def test_the_longest_grace_is_the_one_that_is_rendered() -> None:
    spec = spec_of(execution_timeout_seconds=MAX_EXECUTION_SECONDS)
    runner = runner_deployment(spec, "a", {}, "", sleeps=False, cluster=ClusterSettings())["spec"]["template"]["spec"]
    graces = [pod["terminationGracePeriodSeconds"] for pod in (runner, engine_pod(spec, Placement()))]
    (longest,) = re.findall(r"terminationGracePeriodSeconds\.orValue\(30\) <= (\d+)", _DEPLOYMENTS)
    assert int(longest) == max(graces)


class TestTheGateway:
    """Its policy knows each setting of the components that its sidecar is given, and no other."""

    def test_the_address_is_the_rendered_one(self) -> None:
        said = re.findall(r"\{'name': '(\w+)', 'envRef': '(\w+)'\}", _GATEWAY)
        assert [{"name": name, "envRef": variable} for name, variable in said] == REDIS_ADDRESS

    def test_a_tenants_settings_are_the_rendered_ones(self) -> None:
        rendered = yaml.safe_load(render_tenant(Tenant(name="acme"))["gateway/requests.yaml"])["spec"]["metadata"]
        block = _GATEWAY[_GATEWAY.index("'requests': {") : _GATEWAY.index("- name: needed")]
        said = dict(re.findall(r"'(\w+)': ('.+?),?$", block, re.MULTILINE))
        own = {item["name"]: item["value"] for item in rendered if "value" in item}
        assert said.keys() == own.keys()
        for name, pattern in said.items():
            filled = "".join(re.findall(r"'(.+?)'", pattern.replace("variables.whose", "'acme'")))
            assert re.fullmatch(filled, own[name]), name

    def test_what_stands_for_a_retired_engine_is_the_rendered_one(self) -> None:
        (item,) = marker("retired-acme--one", ["gateway"])["spec"]["metadata"]
        assert f"'retired': {{'{item['name']}': '{item['value']}'}}" in _GATEWAY

    def test_a_sidecar_waits_for_it_as_long_as_is_rendered(self) -> None:
        assert f"object.spec.?initTimeout.orValue('') == '{tolerant()['initTimeout']}'" in _GATEWAY


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
