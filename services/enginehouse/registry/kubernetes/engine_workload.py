"""The untrusted half of a slot: the engine's own pods, which reach nothing, and the Service by which its runner finds them."""

import math
from typing import Any

from enginehouse.contracts.engine import CONTAINER_GROUP, CONTAINER_USER, ENGINE_PORT, EngineSpec
from enginehouse.contracts.names import Slot, app_id
from enginehouse.contracts.program import CONCURRENCY_VARIABLE, SECRETS_DIR_VARIABLE
from enginehouse.registry.kubernetes.labels import VERSION, calls_port, pod_labels, selector, thing
from enginehouse.registry.kubernetes.settings import DISK_MIB, Placement

SECRETS_FOLDER = "/secrets"
_FOUND_SECONDS = 10
"""So long a runner may still find a pod that is to go: its name server remembers addresses, and so does it."""
_MARGIN_SECONDS = 30
LOAD_SECONDS = 1_800
"""A large model may take this long to load. After that its container is started again."""
CONFINED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""What holds for every container of ours and of tenants; the namespace refuses pods without it."""


def secrets_name(engine: str) -> str:
    """Return the Secret with the values that an engine itself reads."""
    return f"{engine}-secrets"


def engine_service(spec: EngineSpec, slot: Slot) -> dict[str, Any]:
    """Return the Service of a slot's engine. Headless: its runner chooses the replica, and so must see each."""
    content = {
        "clusterIP": "None",
        "selector": selector(spec.id, slot, "engine"),
        "ports": [{"name": "http", "port": calls_port(spec)}],
    }
    return thing("v1", "Service", app_id(spec.id, slot), pod_labels(spec.id, slot, "engine"), spec=content)


def engine_deployment(spec: EngineSpec, slot: Slot, replicas: int | None, placement: Placement) -> dict[str, Any]:
    """Return the Deployment of a slot's engine. `replicas` is None where KEDA decides: two would fight over the number."""
    labels = pod_labels(spec.id, slot, "engine")
    # A job in hand when the pod is to go has its own time, whatever the engine does at SIGTERM.
    held = {"lifecycle": {"preStop": {"sleep": {"seconds": longest_end(spec)}}}}
    pod = {**engine_pod(spec, placement), "containers": [{**engine_container(spec), **held}]}
    content: dict[str, Any] = {} if replicas is None else {"replicas": replicas}
    content |= {
        "selector": {"matchLabels": selector(spec.id, slot, "engine")},
        "template": {"metadata": {"labels": labels, "annotations": {VERSION: spec.version}}, "spec": pod},
    }
    return thing("apps/v1", "Deployment", app_id(spec.id, slot), labels, spec=content)


def longest_end(spec: EngineSpec) -> int:
    """Return for how many seconds a pod that is to go may get and end a job."""
    return math.ceil(spec.execution_timeout_seconds) + _FOUND_SECONDS


def engine_pod(spec: EngineSpec, placement: Placement) -> dict[str, Any]:
    """Return what holds for every pod with an engine: all of it but its containers."""
    return {
        "serviceAccountName": "engine",
        "automountServiceAccountToken": False,  # It has no business with the cluster's API.
        "enableServiceLinks": False,  # The names of other engines are none of its business.
        # Its traffic to name servers is dropped, so a lookup would hang for seconds; here it fails at once.
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"], "options": [{"name": "attempts", "value": "1"}]},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": CONTAINER_USER,
            "runAsGroup": CONTAINER_GROUP,
            "fsGroup": CONTAINER_GROUP,  # Reads its secrets, which belong to root.
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": longest_end(spec) + _MARGIN_SECONDS,
        "volumes": _volumes(spec),
        **_place(placement),
    }


def engine_container(spec: EngineSpec) -> dict[str, Any]:
    """Return the container with an engine."""
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - the container's own
    if spec.secrets:
        mounts.append({"name": "secrets", "mountPath": SECRETS_FOLDER, "readOnly": True})  # type: ignore[dict-item]
    return {
        "name": "engine",
        "image": spec.image,
        "env": [{"name": name, "value": value} for name, value in _variables(spec).items()],
        "ports": [{"name": "http", "containerPort": ENGINE_PORT}],
        "resources": _resources(spec),
        # Ready once it has answered, and for good: an engine at work may not answer for long, and its runner sees to its health
        # and to each call's time. So there is no other probe, which would take it away from its runner, or kill it.
        "startupProbe": _first_answer(spec),
        "terminationMessagePolicy": "FallbackToLogsOnError",  # Its last words say why a version does not start.
        "securityContext": CONFINED,
        "volumeMounts": mounts,
    }


def _variables(spec: EngineSpec) -> dict[str, str]:
    own = spec.program.env if spec.program else {}
    secrets = {SECRETS_DIR_VARIABLE: SECRETS_FOLDER} if spec.secrets else {}
    # The same as in a container on one machine.
    given = {CONCURRENCY_VARIABLE: str(spec.concurrency), "HOME": "/tmp", "HOST": "0.0.0.0", "PORT": str(ENGINE_PORT)}  # noqa: S104, S108
    return {**own, **given, **secrets}


def _resources(spec: EngineSpec) -> dict[str, Any]:
    """Return limits that are requests, but of disk: what an engine is promised, it gets, and no neighbour suffers from more."""
    amounts = {"cpu": spec.resources.cpu, "memory": spec.resources.memory}
    if spec.resources.gpu:
        amounts["nvidia.com/gpu"] = str(spec.resources.gpu)
    return {kind: {**amounts, "ephemeral-storage": f"{size}Mi"} for kind, size in DISK_MIB.items()}


def _first_answer(spec: EngineSpec) -> dict[str, Any]:
    # Of a ready-made server only its runner knows where it says that it is ready.
    asked = (
        {"httpGet": {"path": "/healthz", "port": "http"}}
        if spec.protocol == "predict"
        else {"tcpSocket": {"port": "http"}}
    )
    return {**asked, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": LOAD_SECONDS}


def _volumes(spec: EngineSpec) -> list[dict[str, Any]]:
    # In memory, of which it is a part: the only bound on a folder that holds at the moment of writing.
    scratch = {"medium": "Memory", "sizeLimit": str(spec.resources.scratch_bytes)}
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": scratch}]
    if spec.secrets:
        # Only those that engine.yaml names. 0400, to which Kubernetes adds the group's right to read.
        items = [{"key": name, "path": name} for name in spec.secrets]
        secret = {"secretName": secrets_name(spec.id), "defaultMode": 0o400, "items": items}
        volumes.append({"name": "secrets", "secret": secret})
    return volumes


def _place(placement: Placement) -> dict[str, Any]:
    wanted = {
        "runtimeClassName": placement.runtime_class,
        "nodeSelector": placement.node_selector,
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in placement.tolerations],
    }
    return {name: value for name, value in wanted.items() if value}
