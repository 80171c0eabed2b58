"""Render a tenant for a cluster: its namespace with everything that bounds it, and the gateway's part."""

from typing import Any

import yaml

from enginehouse.contracts.names import namespace
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.bundle import render_tenant
from enginehouse.registry.kubernetes.dapr import labelled
from enginehouse.registry.kubernetes.labels import NODES, RUNTIME_CLASS, TOLERATES, tenant_labels, thing
from enginehouse.registry.kubernetes.network import tenant_policies
from enginehouse.registry.kubernetes.parts import Object, Part
from enginehouse.registry.kubernetes.settings import DISK_MIB, QUOTA, ClusterSettings, Placement
from enginehouse.registry.objects import resiliency, runner_configuration

TENANT_PART, GATEWAY_PART = "tenant", "gateway"
_POD_SECURITY = "pod-security.kubernetes.io"
_NEVER = {"services.nodeports": "0", "services.loadbalancers": "0", "persistentvolumeclaims": "0"}
"""What would lead out of a namespace, or keep what an engine has written."""


def render_tenant_parts(tenant: Tenant, cluster: ClusterSettings) -> list[Part]:
    """Return a tenant's two parts."""
    name = tenant.name
    files = {
        "namespace.yaml": [_namespace(name, cluster.placement)],
        "limits.yaml": _limits(name, cluster.placement),
        "network.yaml": tenant_policies(name, cluster),
        "accounts.yaml": [_account(name, who, cluster.placement) for who in ("engine", "runner")],
        # Every sidecar of the namespace loads these from its first day: adding one later restarts it.
        "dapr.yaml": [
            labelled(item, tenant_labels(name)) for item in (runner_configuration(cluster.core_namespace), resiliency())
        ],
    }
    return [Part(TENANT_PART, namespace(name), files), Part(GATEWAY_PART, cluster.core_namespace, _gateway(tenant))]


def _gateway(tenant: Tenant) -> dict[str, list[Object]]:
    of_gateway = {path: text for path, text in render_tenant(tenant).items() if path.startswith("gateway/")}
    return {
        path.removeprefix("gateway/"): [labelled(yaml.safe_load(text), tenant_labels(tenant.name))]
        for path, text in of_gateway.items()
    }


def _namespace(tenant: str, placement: Placement) -> Object:
    # Pod Security refuses what no pod of ours needs: host namespaces, root, capabilities, paths of the node.
    restricted = {f"{_POD_SECURITY}/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    made = thing("v1", "Namespace", namespace(tenant), {**tenant_labels(tenant), **restricted})
    if place := _place(placement):
        made["metadata"]["annotations"] = place
    return made


def _place(placement: Placement) -> dict[str, str]:
    """Return the annotations by which the cluster's policies hold an engine to its tenant's sandbox and nodes."""
    wanted = {
        RUNTIME_CLASS: placement.runtime_class or "",
        NODES: ",".join(f"{label}={value}" for label, value in sorted(placement.node_selector.items())),
        TOLERATES: ",".join(sorted({toleration.key for toleration in placement.tolerations})),
    }
    return {name: value for name, value in wanted.items() if value}


def _limits(tenant: str, placement: Placement) -> list[Object]:
    labels = tenant_labels(tenant)
    pods = placement.quota.get("pods", "")
    # A runner's pod has its sidecar, and that for one job a door.
    containers = 2 * int(pods if pods.isdigit() else QUOTA["pods"])
    disk = {f"{kind}.ephemeral-storage": f"{containers * size}Mi" for kind, size in DISK_MIB.items()}
    disk_of_one = {kind: {"ephemeral-storage": f"{size}Mi"} for kind, size in DISK_MIB.items()}
    # For containers that say nothing, so that the quota does not refuse them. Ours say it: only logs are left to bound.
    limits = {
        "type": "Container",
        "default": {"cpu": "1", "memory": "512Mi", **disk_of_one["limits"]},
        "defaultRequest": {"cpu": "50m", "memory": "64Mi", **disk_of_one["requests"]},
        "max": disk_of_one["limits"],
    }
    return [
        thing("v1", "ResourceQuota", "tenant", labels, spec={"hard": {**QUOTA, **disk, **placement.quota, **_NEVER}}),
        thing("v1", "LimitRange", "tenant", labels, spec={"limits": [limits]}),
    ]


def _account(tenant: str, name: str, placement: Placement) -> Object:
    content: dict[str, Any] = {"automountServiceAccountToken": False}
    if placement.image_pull_secrets:
        content["imagePullSecrets"] = [{"name": secret} for secret in placement.image_pull_secrets]
    return thing("v1", "ServiceAccount", name, tenant_labels(tenant), **content)
