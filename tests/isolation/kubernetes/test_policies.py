"""A hand-made bundle is refused by the cluster's own policies, whoever applies it, before anything of it runs.

Needs a cluster in KUBECONFIG, of Kubernetes 1.34 or later, with the definitions of Dapr and KEDA. The policies are those of
`k8s/policies`, made to hold for one namespace of this test alone; beside that namespace nothing is really made.
"""

import copy
import json
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.break_ins import Noted, attempt, has

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import namespace
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.bundle import render_engine, write_bundle
from enginehouse.registry.kubernetes.engine import render_engine_parts
from enginehouse.registry.kubernetes.parts import Part
from enginehouse.registry.kubernetes.settings import ClusterSettings
from enginehouse.registry.kubernetes.source import read_source
from enginehouse.registry.kubernetes.tenant import render_tenant_parts

Object = dict[str, Any]

_POLICIES = Path(__file__).resolve().parents[3] / "k8s" / "policies"
_TENANT = f"render-{secrets.token_hex(3)}"
_NAMESPACE, _ENGINE, _APP = namespace(_TENANT), f"{_TENANT}--one", f"{_TENANT}--one--a"
_DIGEST = f"sha256:{'a' * 64}"
_CLUSTER = ClusterSettings()
_WHO = {"stranger": "hand-made", "maker": "system:serviceaccount:enginehouse:registry"}
_PLACEHOLDERS = {"$TENANT": _TENANT, "$ENGINE": _ENGINE, "$APP": _APP, "$DIGEST": _DIGEST}
_SHORT = {
    "engine": f"Deployment/{_APP}",
    "runner": f"Deployment/{_APP}-runner",
    "jobs": f"ScaledJob/{_TENANT}--rare--a",
    "namespace": f"Namespace/{_NAMESPACE}",
}
_SECONDS = 60
_DEFINITION = "CustomResourceDefinition"

pytestmark = pytest.mark.timeout(300)


def _filled() -> dict[str, list[Object]]:
    text = Path(__file__).with_name("hostile.yaml").read_text()
    for name, value in _PLACEHOLDERS.items():
        text = text.replace(name, value)
    found: dict[str, list[Object]] = yaml.safe_load(text)
    return found


_HOSTILE = _filled()


def _kubectl(*arguments: str, given: Any = None) -> subprocess.CompletedProcess[str]:
    text = None if given is None else json.dumps(given)
    return subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)


def _made(*items: Object) -> None:
    done = _kubectl("apply", "--server-side", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": items})
    assert done.returncode == 0, done.stderr


def _said(item: Object, who: str = "stranger") -> str:
    """Let the API server judge an object, without making it. Return what it says against it; nothing if all is well."""
    as_whom = (f"--as={_WHO[who]}", "--as-group=system:authenticated")
    done = _kubectl("create", "--dry-run=server", "--validate=strict", *as_whom, "-f", "-", given=item)
    # An object of the tenant's part is there already, and is changed.
    if "AlreadyExists" in done.stderr:
        done = _kubectl("replace", "--dry-run=server", "--validate=strict", *as_whom, "-f", "-", given=item)
    return done.stderr


def _rendered() -> dict[str, Object]:
    """Return the objects of a tenant and its engine, and the gateway's of both, by kind and name."""
    image = f"registry.example/{_TENANT}/one@{_DIGEST}"
    usual = {"tenant": _TENANT, "image": image, "scale": {"min": 0, "max": 5}, "secrets": ["TOKEN"]}
    engines = [
        EngineSpec.model_validate({**usual, **own}) for own in ({"name": "one"}, {"name": "rare", "mode": "job"})
    ]
    found: dict[str, Object] = {}
    parts = [part for spec in engines for part in _engine_parts(spec)]
    for part in [*render_tenant_parts(Tenant(name=_TENANT), _CLUSTER), *parts]:
        place = "gateway/" if part.name == "gateway" else ""
        for item in part.objects():
            if item["kind"] != "Namespace":
                item["metadata"]["namespace"] = _NAMESPACE
            found[f"{place}{item['kind']}/{item['metadata']['name']}"] = item
    return found


def _engine_parts(spec: EngineSpec) -> list[Part]:
    with tempfile.TemporaryDirectory() as scratch:
        write_bundle(Path(scratch) / spec.id, render_engine(spec, ".", "hash"))
        return render_engine_parts(read_source(Path(scratch) / spec.id), _CLUSTER)


_RENDERED = _rendered()


@dataclass(frozen=True)
class Attack:
    """One edit of a rendered object, or an object of another kind."""

    item: Object
    who: str
    refused: str
    edit: str

    @classmethod
    def read(cls, entry: Object) -> "Attack":
        """Return what an entry of hostile.yaml describes."""
        named = str(entry.get("of"))
        item = copy.deepcopy(entry.get("new") or _RENDERED[_SHORT.get(named, named)])
        if "at" in entry:
            _edit(item, entry["at"], entry)
        elif item["kind"] != "Namespace":
            item["metadata"]["namespace"] = _NAMESPACE
        return cls(item, entry.get("as", "stranger"), entry["refused"], json.dumps(entry))


def _edit(item: Object, at: str, entry: Object) -> None:
    *parents, last = [part.replace("~1", "/") for part in at.split("/")[1:]]
    place: Any = item
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    if "to" not in entry:
        del place[int(last) if isinstance(place, list) else last]
    elif last == "-":
        place.append(entry["to"])
    else:
        place[int(last) if isinstance(place, list) else last] = entry["to"]


def _policies() -> list[Object]:
    """Return the policies and their parameters, for the namespace of this test alone."""
    found = [item for path in sorted(_POLICIES.glob("*.yaml")) for item in yaml.safe_load_all(path.read_text())]
    return [_for_this_test(item) for item in found if item["kind"] not in ("Kustomization", _DEFINITION)]


def _for_this_test(item: Object) -> Object:
    name, spec = item["metadata"]["name"], item.get("spec", {})
    item["metadata"]["name"] = f"{_TENANT}-{name}"
    if item["kind"] == "AdmissionSettings":
        spec |= {"images": ["registry.example/{tenant}/"], "runner": _CLUSTER.services_image}
    here = {"matchLabels": {"kubernetes.io/metadata.name": _NAMESPACE}}
    if item["kind"] == "ValidatingAdmissionPolicyBinding":
        spec["policyName"] = f"{_TENANT}-{spec['policyName']}"
        if "paramRef" in spec:
            spec["paramRef"]["name"] = f"{_TENANT}-{spec['paramRef']['name']}"
        if "matchResources" in spec:
            spec["matchResources"]["namespaceSelector"] = here
    elif name in _OF_THIS_TEST:
        spec.setdefault("matchConditions", []).append({"name": "of-this-test", "expression": _OF_THIS_TEST[name]})
    return item


# The namespace is the tenant's and the gateway's at once: of the gateway's part are those with its label, beside none.
_OF_THIS_TEST = {
    "enginehouse-namespaces": f"object.metadata.name == '{_NAMESPACE}'",
    "enginehouse-gateway": "object.metadata.?labels[?'of-the-gateway'].orValue('') == 'true'",
    "enginehouse-dapr": "object.metadata.?labels[?'of-the-gateway'].orValue('') != 'true'",
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Make the tenant's namespace, and the policies for it; remove all of them in the end."""
    if not has("kubernetes"):
        pytest.skip("KUBECONFIG names no cluster that answers")
    policies, rights = _policies(), f"{_TENANT}-policies-test"
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name} for name in _WHO.values()]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": rights}}
    for name, item in _RENDERED.items():
        if name.startswith("gateway/"):
            item["metadata"]["labels"]["of-the-gateway"] = "true"
    there = [
        item for name, item in _RENDERED.items() if item["kind"] in ("Namespace", "NetworkPolicy", "ServiceAccount")
    ]
    try:
        # The definition stays: others of this cluster may use it.
        _made(*there, *yaml.safe_load_all((_POLICIES / "definition.yaml").read_text()))
        _made({**binding, "roleRef": role, "subjects": subjects}, *policies)
        _until_they_hold()
        yield
    finally:
        for item in policies:
            _kubectl("delete", item["kind"], item["metadata"]["name"], "--ignore-not-found")
        _kubectl("delete", "clusterrolebinding", rights, "--ignore-not-found")
        _kubectl("delete", "namespace", _NAMESPACE, "--ignore-not-found", "--wait=false")


def _until_they_hold() -> None:
    """Wait until each of the policies refuses something: the API server compiles them when it hears of them."""
    waiting = {name: Attack.read(entries[0]) for name, entries in _HOSTILE.items() if name != "pod-security"}
    deadline = time.monotonic() + _SECONDS
    while waiting:
        assert time.monotonic() < deadline, f"these policies refuse nothing: {sorted(waiting)}"
        waiting = {
            name: attack for name, attack in waiting.items() if attack.refused not in _said(attack.item, attack.who)
        }


def test_what_is_rendered_is_accepted() -> None:
    with ThreadPoolExecutor(4) as pool:
        said = dict(zip(_RENDERED, pool.map(lambda item: _said(item, "maker"), _RENDERED.values()), strict=True))
    harmless = "spec.SessionAffinity is ignored for headless services"
    assert {name: words for name, words in said.items() if words and harmless not in words} == {}


@attempt("deploys a bundle made by hand", layer="the cluster's admission policies", need="kubernetes")
@pytest.mark.parametrize("policy", sorted(_HOSTILE))
def test_what_is_hostile_is_refused(policy: str, note: Noted) -> None:
    attacks = [Attack.read(entry) for entry in _HOSTILE[policy]]
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda attack: _said(attack.item, attack.who), attacks))
    wrong = [
        f"{attack.edit}\n    {words}"
        for attack, words in zip(attacks, said, strict=True)
        if attack.refused not in words
    ]
    assert not wrong, "\n".join(wrong)
    note(f"{sum(map(len, _HOSTILE.values()))} bundles refused")


@attempt("removes what bounds a tenant", layer="the cluster's admission policies", need="kubernetes")
@pytest.mark.parametrize("what", ["networkpolicy/default-deny", "serviceaccount/engine", "networkpolicy --all"])
def test_what_bounds_a_tenant_stays(what: str, note: Noted) -> None:
    delete = ("-n", _NAMESPACE, "delete", *what.split(), "--dry-run=server")
    said = _kubectl(*delete, f"--as={_WHO['stranger']}", "--as-group=system:authenticated").stderr
    assert "made by the registry" in said
    assert _kubectl(*delete, f"--as={_WHO['maker']}", "--as-group=system:authenticated").returncode == 0
    note("the registry's account may, another may not")


def test_every_policy_is_tried() -> None:
    here = {path.stem for path in _POLICIES.glob("*.yaml")} - {"kustomization", "definition", "settings"}
    assert here == set(_HOSTILE) - {"pod-security"}
