"""Every object for Kubernetes, rendered or shipped, fits its definition without an unknown field, and finds those it names."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.manifests.test_crds import DEFINITIONS, validator_of
from tests.support.rendered import ELSEWHERE, engine_parts, every_shape, spec_of

from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.kubernetes.parts import Part, texts_of
from enginehouse.registry.kubernetes.settings import ClusterSettings
from enginehouse.registry.kubernetes.tenant import render_tenant_parts

Object = dict[str, Any]

_ROOT = Path(__file__).resolve().parents[2]
_K8S = _ROOT / "k8s"
_SNAPSHOTS = Path(__file__).with_name("snapshots")
_LOCAL = _K8S / "overlays" / "local"
_VERSION = "1.34"
_KUBECTL = shutil.which("kubectl")
_SHAPES = every_shape()
_FOLDERS = sorted(path.parent for path in _K8S.rglob("kustomization.yaml") if "kind: Component" not in path.read_text())


def _mistakes(item: Object) -> list[str]:
    """Return what of an object does not fit its definition."""
    key = (item["apiVersion"], item["kind"])
    if key in DEFINITIONS:
        found = [error.message for error in DEFINITIONS[key].iter_errors(item)]
        # The definition of what makes Jobs does not say again what a Job is.
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "made"}}
        return [*found, *(_mistakes({**job, "spec": item["spec"]["jobTargetRef"]}) if key[1] == "ScaledJob" else [])]
    if item["kind"] == "AdmissionSettings":
        (definition,) = yaml.safe_load_all((_K8S / "policies" / "definition.yaml").read_text())
        return [error.message for error in validator_of(definition["spec"]["versions"][0]).iter_errors(item)]
    try:
        kubernetes_validate.validate(item, _VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def _all_mistakes(items: list[Object]) -> dict[str, list[str]]:
    found = {f"{item['kind']}/{item['metadata']['name']}": _mistakes(item) for item in items}
    return {name: mistakes for name, mistakes in found.items() if mistakes}


@pytest.mark.parametrize("shape", _SHAPES)
def test_what_is_rendered_fits_its_definitions(shape: str) -> None:
    assert _all_mistakes([item for part in _SHAPES[shape] for item in part.objects()]) == {}


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(_K8S.rglob("*.yaml")) if path.name != "kustomization.yaml"],
    ids=lambda path: str(path.relative_to(_K8S)),
)
def test_what_is_shipped_fits_its_definitions(path: Path) -> None:
    items = [item for item in yaml.safe_load_all(path.read_text()) if item and "kind" in item]
    assert _all_mistakes(items) == {}


@pytest.mark.skipif(_KUBECTL is None, reason="kubectl builds kustomizations, and is not here")
@pytest.mark.parametrize("folder", _FOLDERS, ids=lambda path: str(path.relative_to(_K8S)))
def test_what_is_built_fits_its_definitions(folder: Path) -> None:
    assert _all_mistakes(_built(folder)) == {}


@pytest.mark.skipif(_KUBECTL is None, reason="kubectl builds kustomizations, and is not here")
@pytest.mark.parametrize("shape", _SHAPES)
def test_kustomize_builds_the_same_objects_as_are_applied(shape: str, tmp_path: Path) -> None:
    for path, text in texts_of(_SHAPES[shape]).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for part in _SHAPES[shape]:
        if part.files:
            assert _sorted(_built(tmp_path / part.name)) == _sorted(part.objects())


def _built(folder: Path) -> list[Object]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def _sorted(items: list[Object]) -> list[Object]:
    return sorted(items, key=lambda item: (item["kind"], item["metadata"]["name"]))


@pytest.mark.parametrize("spoil", [{"replica": 1}, {"replicas": "one"}, {"selector": []}])
def test_a_wrong_object_does_not_fit(spoil: Object) -> None:
    item = next(item for part in _SHAPES["minimal"] for item in part.objects() if item["kind"] == "Deployment")
    assert _mistakes({**item, "spec": {**item["spec"], **spoil}})


class TestNames:
    @pytest.mark.parametrize("shape", _SHAPES)
    def test_no_two_objects_have_one_name(self, shape: str) -> None:
        for part in _SHAPES[shape]:
            names = [(item["kind"], item["metadata"]["name"]) for item in part.objects()]
            assert len(names) == len(set(names))

    @pytest.mark.parametrize("shape", _SHAPES)
    def test_names_and_labels_are_not_too_long(self, shape: str) -> None:
        for item in (item for part in _SHAPES[shape] for item in part.objects()):
            # A Deployment's name becomes a label; the Service that Dapr makes for an app has five characters more.
            assert len(item["metadata"]["name"]) <= (
                58 if item["kind"] == "Service" else 63 if item["kind"] == "Deployment" else 253
            )
            assert all(len(value) <= 63 for value in item["metadata"]["labels"].values())

    @pytest.mark.parametrize("shape", _SHAPES)
    def test_selectors_find_the_pods_that_are_meant(self, shape: str) -> None:
        engine = _SHAPES[shape][0].objects()
        pods = [template["metadata"]["labels"] for template in map(_template, engine) if template]
        for selected, least in _selectors(engine):
            found = [labels for labels in pods if selected.items() <= labels.items()]
            assert len(found) == least, selected

    @pytest.mark.parametrize("shape", _SHAPES)
    def test_what_a_pod_names_is_there(self, shape: str) -> None:
        engine = _SHAPES[shape][0].objects()
        there = {(item["kind"], item["metadata"]["name"]) for item in engine}
        components = {name for kind, name in there if kind == "Component"}
        for item in engine:
            if item["kind"] == "ScaledObject":
                assert ("Deployment", item["spec"]["scaleTargetRef"]["name"]) in there
            if item["kind"] == "Subscription" and item["scopes"] != ["none"]:
                assert item["spec"]["pubsubname"] in components
            if template := _template(item):
                pod = template["spec"]
                maps = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
                assert all(("ConfigMap", name) in there for name in maps)
                env = {one["name"]: one.get("value") for one in pod["containers"][0].get("env", [])}
                assert env.get("ENGINEHOUSE_RUNNER_JOBS_COMPONENT") in {None, *components}


def _template(item: Object) -> Object | None:
    """Return the template of the pods that an object makes; None if it makes none."""
    found: Object | None = item.get("spec", {}).get("jobTargetRef", item.get("spec", {})).get("template")
    return found


def _selectors(items: list[Object]) -> Iterator[tuple[dict[str, str], int]]:
    """Return every selector of pods, and how many Deployments it must find."""
    for item in items:
        spec = item.get("spec", {})
        if item["kind"] in ("Deployment", "Service"):
            yield spec["selector"].get("matchLabels") or spec["selector"], 1
        if item["kind"] == "NetworkPolicy" and "enginehouse.dev/engine" in item["metadata"]["labels"]:
            yield spec["podSelector"]["matchLabels"], 1
            peers = [*spec.get("ingress", []), *spec.get("egress", [])]
            for peer in (peer for rule in peers for peer in rule.get("from") or rule.get("to")):
                yield peer["podSelector"]["matchLabels"], 1


class TestTheCore:
    """What is rendered finds what the trial overlay brings, and the policies compare with the same."""

    @pytest.mark.skipif(_KUBECTL is None, reason="kubectl builds kustomizations, and is not here")
    @pytest.mark.parametrize("overlay", sorted(path.name for path in (_K8S / "overlays").iterdir()))
    def test_policies_and_rendered_objects_name_the_same(self, overlay: str) -> None:
        folder = _K8S / "overlays" / overlay
        (policies,) = [
            item["spec"]
            for item in _built(folder / "policies" if (folder / "policies").exists() else _K8S / "policies")
            if item["kind"] == "AdmissionSettings"
        ]
        (told,) = [
            item["data"]["cluster.yaml"]
            for item in _built(folder)
            if (item["kind"], item["metadata"]["name"]) == ("ConfigMap", "cluster")
        ]
        cluster = ClusterSettings.model_validate(yaml.safe_load(told) or {})
        assert {
            "runner": policies["runner"],
            "broker": policies["broker"],
            "brokerCidrs": policies.get("brokerCidrs", []),
            "objectsCidrs": policies.get("objectsCidrs", []),
            "gateway": policies["gateway"],
        } == {
            "runner": cluster.services_image,
            "broker": cluster.broker,
            "brokerCidrs": cluster.broker_cidrs,
            "objectsCidrs": cluster.objects_cidrs,
            "gateway": cluster.gateway_url,
        }

    @pytest.mark.skipif(_KUBECTL is None, reason="kubectl builds kustomizations, and is not here")
    @pytest.mark.parametrize(
        "address", [ClusterSettings().broker, ClusterSettings().gateway_url.removeprefix("http://")]
    )
    def test_addresses_are_those_of_services(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        name, namespace, *rest = host.split(".")
        assert rest == ["svc", "cluster", "local"]
        ports = [
            one["port"]
            for item in _built(_LOCAL)
            if (item["kind"], item["metadata"]["name"], item["metadata"].get("namespace"))
            == ("Service", name, namespace)
            for one in item["spec"]["ports"]
        ]
        assert int(port) in ports

    @pytest.mark.skipif(_KUBECTL is None, reason="kubectl builds kustomizations, and is not here")
    def test_what_runners_reach_is_there(self) -> None:
        pods = [item["spec"]["template"] for item in _built(_LOCAL) if "template" in item.get("spec", {})]
        tenant, _ = render_tenant_parts(Tenant(name="acme"), ClusterSettings())
        (runners,) = [
            item for item in tenant.objects() if (item["kind"], item["metadata"]["name"]) == ("NetworkPolicy", "runner")
        ]
        reached = [
            (peer["podSelector"]["matchLabels"], rule["ports"][0]["port"])
            for rule in runners["spec"]["egress"]
            for peer in rule["to"]
            if peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "enginehouse"}
        ]
        assert len(reached) == 2
        for labels, port in reached:
            (pod,) = [one for one in pods if labels.items() <= one["metadata"]["labels"].items()]
            assert port in [one["containerPort"] for one in pod["spec"]["containers"][0]["ports"]]


def _shown() -> dict[str, str]:
    """Return the files of one engine and its tenant, as a reviewer sees them."""
    spec = spec_of(scale={"min": 0, "max": 5}, secrets=["HF_TOKEN"])
    engine: list[Part] = engine_parts(spec, trial=spec_of(version="v2", secrets=["HF_TOKEN"]))
    tenant = render_tenant_parts(Tenant(name="acme"), ELSEWHERE)
    rare = texts_of(engine_parts(spec_of(name="rare", mode="job", scale={"max": 5})))
    of_jobs = ("engine/slot-a/engine.yaml", "engine/slot-a/scaling.yaml")
    return {
        **{f"acme--rare/{path}": rare[path] for path in of_jobs},
        **{f"acme--sentiment/{path}": text for path, text in texts_of(engine).items()},
        **{f"acme/{path}": text for path, text in texts_of(tenant).items()},
    }


def test_snapshots_show_what_is_rendered() -> None:
    shown = _shown()
    if os.environ.get("WRITE_SNAPSHOTS"):
        shutil.rmtree(_SNAPSHOTS, ignore_errors=True)
        for path, text in shown.items():
            (_SNAPSHOTS / path).parent.mkdir(parents=True, exist_ok=True)
            (_SNAPSHOTS / path).write_text(text)
    there = {str(path.relative_to(_SNAPSHOTS)): path.read_text() for path in _SNAPSHOTS.rglob("*.yaml")}
    assert there == shown, "it is rendered in another way: 'make fix' writes it, and the diff shows it"
