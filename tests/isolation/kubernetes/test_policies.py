"""A hand-made bundle is refused by the cluster's own policies, whoever applies it, before anything of it runs.

Needs a cluster in KUBECONFIG, of Kubernetes 1.34 or later, with the definitions of Dapr and KEDA; it may have a core, which is
left alone. The policies are those of `k8s/policies`, made to hold for namespaces of this test alone; beside those, and what bounds
the tenant's, nothing is really made.
"""

import copy
import json
import re
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
from tests.support.policies_on_trial import (
    CLUSTER,
    CORE,
    LABEL,
    NAMESPACE,
    POLICIES,
    SOMEBODYS,
    TENANT_NAME,
    Object,
    definition,
    kubectl,
    made,
    policies,
    rights,
    said,
)

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.bundle import render_engine, write_bundle
from enginehouse.registry.kubernetes.engine import render_engine_parts
from enginehouse.registry.kubernetes.labels import TENANT
from enginehouse.registry.kubernetes.parts import Part
from enginehouse.registry.kubernetes.source import read_source
from enginehouse.registry.kubernetes.tenant import render_tenant_parts

_ROOT = POLICIES.parents[1]
_ENGINE, _APP = f"{TENANT_NAME}--one", f"{TENANT_NAME}--one--a"
_DIGEST = f"sha256:{'a' * 64}"
_PLACEHOLDERS = {
    "$TENANT": TENANT_NAME,
    "$ENGINE": _ENGINE,
    "$APP": _APP,
    "$DIGEST": _DIGEST,
    "$LABEL": LABEL.replace("/", "~1"),
    "$CORE": CORE,
    "$SOMEBODYS": SOMEBODYS,
}
_SHORT = {
    "engine": f"Deployment/{_APP}",
    "runner": f"Deployment/{_APP}-runner",
    "jobs": f"ScaledJob/{TENANT_NAME}--rare--a",
    "namespace": f"Namespace/{NAMESPACE}",
}
_SECONDS = 60
_MADE = ("Namespace", "NetworkPolicy", "ServiceAccount", "ResourceQuota", "LimitRange")
"""What of the tenant's part is there already, and is changed."""

pytestmark = pytest.mark.timeout(300)


def _filled() -> dict[str, list[Object]]:
    text = Path(__file__).with_name("hostile.yaml").read_text()
    for name, value in _PLACEHOLDERS.items():
        text = text.replace(name, value)
    found: dict[str, list[Object]] = yaml.safe_load(text)
    return found


_HOSTILE = _filled()


def _rendered() -> dict[str, Object]:
    """Return the objects of a tenant and its engines, of the gateway's part of both, and of the core, by kind and name."""
    image = f"registry.example/{TENANT_NAME}/one@{_DIGEST}"
    usual = {"tenant": TENANT_NAME, "image": image, "scale": {"min": 0, "max": 5}, "secrets": ["TOKEN"]}
    engines = [
        EngineSpec.model_validate({**usual, **own}) for own in ({"name": "one"}, {"name": "rare", "mode": "job"})
    ]
    parts = [part for spec in engines for part in _engine_parts(spec)]
    found = [
        ("gateway/", CORE, item) if part.name == "gateway" else ("", NAMESPACE, item)
        for part in [*render_tenant_parts(Tenant(name=TENANT_NAME), CLUSTER), *parts]
        for item in part.objects()
    ]
    core = [path for folder in ("components/local", "dapr") for path in sorted((_ROOT / folder).rglob("*.yaml"))]
    kept = [
        item
        for path in core
        for item in yaml.safe_load_all(path.read_text())
        if "dapr.io" in item.get("apiVersion", "")
    ]
    found += [("core/", CORE, item) for item in kept if item["metadata"]["name"] != "runner"]
    return {f"{place}{item['kind']}/{item['metadata']['name']}": item for place, item in map(_placed, found)}


def _placed(found: tuple[str, str, Object]) -> tuple[str, Object]:
    place, where, item = found
    if item["kind"] == "Namespace":
        item["metadata"]["name"] = where
        item["metadata"]["labels"][LABEL] = item["metadata"]["labels"].pop(TENANT)
    else:
        item["metadata"]["namespace"] = where
    return place, item


def _engine_parts(spec: EngineSpec) -> list[Part]:
    with tempfile.TemporaryDirectory() as scratch:
        write_bundle(Path(scratch) / spec.id, render_engine(spec, ".", "hash"))
        return render_engine_parts(read_source(Path(scratch) / spec.id), CLUSTER)


_RENDERED = _rendered()


@dataclass(frozen=True)
class Attack:
    """One edit of a rendered object, or an object of another kind."""

    item: Object
    who: str
    refused: str
    edit: str

    def is_refused_in(self, words: str) -> bool:
        """Say whether the API server has refused it with the words that are expected."""
        return re.search(self.refused, words) is not None

    @classmethod
    def read(cls, entry: Object) -> "Attack":
        """Return what an entry of hostile.yaml describes."""
        named = str(entry.get("of"))
        item = copy.deepcopy(entry.get("new") or _RENDERED[_SHORT.get(named, named)])
        if "at" in entry:
            _edit(item, entry["at"], entry)
        elif item["kind"] != "Namespace":
            item["metadata"].setdefault("namespace", NAMESPACE)
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


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Make the namespaces, and the policies for them; remove all of them in the end."""
    if not has("kubernetes"):
        pytest.skip("KUBECONFIG names no cluster that answers")
    judges, (defined,) = policies(), definition()
    others = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (CORE, SOMEBODYS)]
    there = [item for item in _RENDERED.values() if item["kind"] in _MADE]
    try:
        made(*others, *there, defined)
        kubectl("wait", "--for=condition=Established", f"crd/{defined['metadata']['name']}", f"--timeout={_SECONDS}s")
        made(_RENDERED["core/Component/jobs"], rights(), *judges)
        _until_they_hold()
        yield
    finally:
        for item in [*judges, rights(), defined]:
            # By its group, as a core of this cluster may have a kind of the same name.
            kind = f"{item['kind']}.v1.{item['apiVersion'].partition('/')[0]}"
            kubectl("delete", kind, item["metadata"]["name"], "--ignore-not-found")
        kubectl("delete", "namespace", NAMESPACE, CORE, SOMEBODYS, "--ignore-not-found", "--wait=false")


def _until_they_hold() -> None:
    """Wait until each of the policies refuses something: the API server compiles them when it hears of them."""
    waiting = {name: Attack.read(entries[0]) for name, entries in _HOSTILE.items() if name != "pod-security"}
    deadline = time.monotonic() + _SECONDS
    while waiting:
        assert time.monotonic() < deadline, f"these policies refuse nothing: {sorted(waiting)}"
        waiting = {
            name: attack for name, attack in waiting.items() if not attack.is_refused_in(said(attack.item, attack.who))
        }


def test_what_is_rendered_is_accepted() -> None:
    whose = [(item, "installer" if name.startswith("core/") else "maker") for name, item in _RENDERED.items()]
    with ThreadPoolExecutor(4) as pool:
        heard = dict(zip(_RENDERED, pool.map(lambda one: said(*one), whose), strict=True))
    harmless = "spec.SessionAffinity is ignored for headless services"
    assert {name: words for name, words in heard.items() if words and harmless not in words} == {}


@attempt("deploys a bundle made by hand", layer="the cluster's admission policies", need="kubernetes")
@pytest.mark.parametrize("policy", sorted(_HOSTILE))
def test_what_is_hostile_is_refused(policy: str, note: Noted) -> None:
    attacks = [Attack.read(entry) for entry in _HOSTILE[policy]]
    with ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(lambda attack: said(attack.item, attack.who), attacks))
    wrong = [
        f"{attack.edit}\n    {words}"
        for attack, words in zip(attacks, heard, strict=True)
        if not attack.is_refused_in(words)
    ]
    assert not wrong, "\n".join(wrong)
    note(f"{sum(map(len, _HOSTILE.values()))} bundles refused")


@attempt("removes what bounds a tenant", layer="the cluster's admission policies", need="kubernetes")
@pytest.mark.parametrize("what", ["networkpolicy/default-deny", "serviceaccount/engine", "networkpolicy --all"])
def test_what_bounds_a_tenant_stays(what: str, note: Noted) -> None:
    delete = ("-n", NAMESPACE, "delete", *what.split(), "--dry-run=server")
    assert "made by the registry" in kubectl(*delete, who="stranger").stderr
    assert kubectl(*delete, who="maker").returncode == 0
    note("the registry's account may, another may not")


@attempt("removes a component of the core", layer="the cluster's admission policies", need="kubernetes")
@pytest.mark.parametrize("who", ["stranger", "registry-as-installer"])
def test_the_core_stays(who: str, note: Noted) -> None:
    delete = ("-n", CORE, "delete", "components.dapr.io/jobs", "--dry-run=server")
    assert "denied request" in kubectl(*delete, who=who).stderr
    assert kubectl(*delete, who="installer").returncode == 0
    note("who installs it may, another may not")


@attempt("asks for the token of a tenant's runner", layer="the cluster's admission policies", need="kubernetes")
@pytest.mark.parametrize("who", ["stranger", "maker", "controller"])
def test_only_nodes_get_tokens(who: str, note: Noted) -> None:
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["test"]}}
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/runner/token?dryRun=All"
    assert "only a node asks" in kubectl("create", "--raw", path, "-f", "-", given=asked, who=who).stderr
    answered = kubectl("create", "--raw", path, "-f", "-", given=asked, who="node")
    assert answered.returncode == 0, answered.stderr
    note("a node may, another may not")


def test_pods_fit_into_the_quota_with_what_is_added_to_them() -> None:
    """Dapr adds its sidecar to a runner's pod, which says nothing of disk: the LimitRange does, or the quota would refuse it."""
    _until_the_quota_counts()
    for name in ("engine", "runner", "jobs"):
        item = _RENDERED[_SHORT[name]]
        template = item["spec"].get("jobTargetRef", item["spec"])["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
        pod["metadata"] |= {"name": f"{name}-pod", "namespace": NAMESPACE}
        done = kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", given=pod, who="controller")
        assert done.returncode == 0, done.stderr
        spec = json.loads(done.stdout)["spec"]
        containers = [*spec["containers"], *spec.get("initContainers", [])]
        bounds = {one["name"]: one["resources"]["limits"].get("ephemeral-storage") for one in containers}
        assert all(bounds.values()), bounds
        assert ("daprd" in bounds) == (name == "runner" and _has_dapr())
        pod["spec"]["containers"][0]["resources"] = {"limits": {"ephemeral-storage": "100Gi"}}
        refused = kubectl("create", "--dry-run=server", "-f", "-", given=pod, who="controller").stderr
        assert "maximum ephemeral-storage usage per Container" in refused


def _has_dapr() -> bool:
    return kubectl("get", "mutatingwebhookconfiguration", "dapr-sidecar-injector").returncode == 0


def _until_the_quota_counts() -> None:
    deadline = time.monotonic() + _SECONDS
    while not kubectl("-n", NAMESPACE, "get", "resourcequota", "tenant", "-o", "jsonpath={.status.hard}").stdout:
        assert time.monotonic() < deadline, "nothing counts what the quota bounds"
        time.sleep(1)


def test_every_policy_is_tried() -> None:
    here = {path.stem for path in POLICIES.glob("*.yaml")} - {"kustomization", "definition", "settings"}
    assert here == set(_HOSTILE) - {"pod-security"}
