"""Who may talk with whom in a tenant's namespace. What no policy names is dropped, both ways."""

from typing import Any

from enginehouse.contracts.names import Slot, app_id
from enginehouse.registry.kubernetes.labels import (
    BROKER,
    GATEWAY_PORT,
    HEALTH_PORT,
    NAME,
    SIDECAR_PORT,
    pod_labels,
    runner_name,
    selector,
    tenant_labels,
    thing,
)
from enginehouse.registry.kubernetes.settings import ClusterSettings

_CONTROL_PLANE_PORTS = (6500, 50001, 50005, 50006)
"""Of Dapr's operator, sentry, placement and scheduler."""


def slot_policies(engine: str, slot: Slot, port: int) -> list[dict[str, Any]]:
    """Return the two policies of a slot: its engine is reached by its own runner on one `port`, and reaches nothing."""
    pods = {kind: {"matchLabels": selector(engine, slot, kind)} for kind in ("engine", "runner")}
    ports = [_port(port)]
    of_engine = {
        "podSelector": pods["engine"],
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": pods["runner"]}], "ports": ports}],
    }
    of_runner = {
        "podSelector": pods["runner"],
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": pods["engine"]}], "ports": ports}],
    }
    return [
        _policy(app_id(engine, slot), pod_labels(engine, slot, "engine"), of_engine),
        _policy(runner_name(engine, slot), pod_labels(engine, slot, "runner"), of_runner),
    ]


def tenant_policies(tenant: str, cluster: ClusterSettings) -> list[dict[str, Any]]:
    """Return the policies of a tenant's namespace: nothing passes, and what every runner needs beside its own engine."""
    labels = tenant_labels(tenant)
    nothing = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    runners = {
        "podSelector": {"matchLabels": {NAME: "runner"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [_core(cluster, {NAME: "gateway"})], "ports": [_port(SIDECAR_PORT)]},
            {"from": [_core(cluster, {NAME: "registry"})], "ports": [_port(HEALTH_PORT)]},
        ],
        "egress": [
            {"to": [_pods("kube-system", {"k8s-app": "kube-dns"})], "ports": [_port(53, "UDP"), _port(53)]},
            {"to": [_namespace(cluster.dapr_namespace)], "ports": [_port(port) for port in _CONTROL_PLANE_PORTS]},
            {"to": _broker(cluster), "ports": [_port(cluster.broker_port)]},
            # Objects by reference: large inputs and outputs.
            {"to": [_core(cluster, {NAME: "gateway"})], "ports": [_port(GATEWAY_PORT)]},
            *({"to": [{"ipBlock": {"cidr": cidr}}], "ports": [_port(443)]} for cidr in cluster.objects_cidrs),
        ],
    }
    return [_policy("default-deny", labels, nothing), _policy("runner", labels, runners)]


def _broker(cluster: ClusterSettings) -> list[dict[str, Any]]:
    if cluster.broker_cidrs:
        return [{"ipBlock": {"cidr": cidr}} for cidr in cluster.broker_cidrs]
    return [_core(cluster, {BROKER: "true"})]


def _core(cluster: ClusterSettings, labels: dict[str, str]) -> dict[str, Any]:
    return _pods(cluster.core_namespace, labels)


def _pods(namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    return {**_namespace(namespace), "podSelector": {"matchLabels": labels}}


def _namespace(name: str) -> dict[str, Any]:
    # A label that Kubernetes itself sets, so that no namespace can pretend to be another.
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _port(number: int, protocol: str = "TCP") -> dict[str, Any]:
    return {"protocol": protocol, "port": number}


def _policy(name: str, labels: dict[str, str], spec: dict[str, Any]) -> dict[str, Any]:
    return thing("networking.k8s.io/v1", "NetworkPolicy", name, labels, spec=spec)
