"""The cluster's admission policies under other names, for namespaces of one test alone, beside those that a cluster has already."""

import json
import secrets
import subprocess
from pathlib import Path
from typing import Any

import yaml

from enginehouse.registry.kubernetes.labels import TENANT
from enginehouse.registry.kubernetes.settings import ClusterSettings

Object = dict[str, Any]

POLICIES = Path(__file__).resolve().parents[2] / "k8s" / "policies"
_RUN = secrets.token_hex(3)
TENANT_NAME = f"render-{_RUN}"
_PREFIX = f"p{_RUN}-"
NAMESPACE, CORE, SOMEBODYS = f"{_PREFIX}{TENANT_NAME}", f"core-{_RUN}", f"{_PREFIX}somebody"
"""The tenant's, that of the gateway, and one of a tenant's name that has no label of one."""
LABEL = f"p{_RUN}.test/tenant"
"""In place of the label of tenants' namespaces: what a core of this cluster does by that is not of this test."""
_GROUP = f"p{_RUN}.test"
"""Of the kind of their parameters, so that the definition of a core of this cluster stays what it is."""
_REGISTRY, _INSTALLERS = f"registry-{_RUN}", f"installers-{_RUN}"
WHO: dict[str, tuple[str, str]] = {
    "stranger": (f"hand-made-{_RUN}", "system:authenticated"),
    "maker": (_REGISTRY, "system:authenticated"),
    "installer": (f"installer-{_RUN}", _INSTALLERS),
    "registry-as-installer": (_REGISTRY, _INSTALLERS),
    "node": (f"system:node:node-{_RUN}", "system:authenticated"),
    "controller": ("system:serviceaccount:kube-system:replicaset-controller", "system:authenticated"),
}
"""User and group of each who tries something; all have every right, so that only policies stop them."""
CLUSTER = ClusterSettings()
_DEFINITION = "CustomResourceDefinition"


def kubectl(*arguments: str, given: Any = None, who: str = "") -> subprocess.CompletedProcess[str]:
    """Run kubectl, with an object on its input, as somebody of `WHO`."""
    text = None if given is None else json.dumps(given)
    as_whom = [f"--as={WHO[who][0]}", f"--as-group={WHO[who][1]}"] if who else []
    return subprocess.run(
        ["kubectl", *arguments, *as_whom], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def made(*items: Object) -> None:
    """Apply objects."""
    done = kubectl("apply", "--server-side", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": items})
    assert done.returncode == 0, done.stderr


def said(item: Object, who: str = "stranger") -> str:
    """Let the API server judge an object, without making it. Return what it says against it; nothing if all is well."""
    done = kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", given=item, who=who)
    # An object that is there already is changed.
    if "AlreadyExists" in done.stderr:
        done = kubectl("replace", "--dry-run=server", "--validate=strict", "-f", "-", given=item, who=who)
    return done.stderr


def policies() -> list[Object]:
    """Return the policies and their parameters, for the namespaces of this test alone."""
    found = [item for path in sorted(POLICIES.glob("*.yaml")) for item in yaml.safe_load_all(_text(path))]
    return [_for_this_test(item) for item in found if item["kind"] not in ("Kustomization", _DEFINITION)]


def definition() -> list[Object]:
    """Return the definition of the kind of their parameters, which is of this test alone as well."""
    return list(yaml.safe_load_all((POLICIES / "definition.yaml").read_text().replace("enginehouse.dev", _GROUP)))


def rights() -> Object:
    """Return the binding by which everybody of this test has every right."""
    api = "rbac.authorization.k8s.io"
    users = {user: {"apiGroup": api, "kind": "User", "name": user} for user, _ in WHO.values()}
    return {
        "apiVersion": f"{api}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"{TENANT_NAME}-policies-test"},
        "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": list(users.values()),
    }


def _text(path: Path) -> str:
    text = path.read_text().replace("'tenant-'", f"'{_PREFIX}'")
    text = text.replace("system:serviceaccount:enginehouse:registry", _REGISTRY)
    text = text.replace("apiVersion: enginehouse.dev/v1", f"apiVersion: {_GROUP}/v1")
    if path.name in ("namespaces.yaml", "registry.yaml"):
        return text.replace(f"'{TENANT}'", f"'{LABEL}'").replace("== 'enginehouse'", f"== '{CORE}'")
    for labels in ("labels[", "?labels[?"):
        text = text.replace(
            f"namespaceObject.metadata.{labels}'{TENANT}']", f"namespaceObject.metadata.{labels}'{LABEL}']"
        )
    return text


def _for_this_test(item: Object) -> Object:
    name, spec = item["metadata"]["name"], item.get("spec", {})
    item["metadata"]["name"] = f"{TENANT_NAME}-{name}"
    if item["kind"] == "AdmissionSettings":
        spec |= {"runner": CLUSTER.services_image, "installers": [_INSTALLERS]}
    if item["kind"] == "ValidatingAdmissionPolicyBinding":
        spec["policyName"] = f"{TENANT_NAME}-{spec['policyName']}"
        if "paramRef" in spec:
            spec["paramRef"]["name"] = f"{TENANT_NAME}-{spec['paramRef']['name']}"
        if "matchResources" in spec:
            where = CORE if name == "enginehouse-gateway" else NAMESPACE
            spec["matchResources"]["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": where}}
    return item
