"""The trusted half of a slot: its runner with the injected sidecar, which are the engine's Dapr app."""

import hashlib
import math
from typing import Any

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import Slot, app_id
from enginehouse.registry.bundle import ENGINE_FILE
from enginehouse.registry.kubernetes.engine_workload import CONFINED
from enginehouse.registry.kubernetes.labels import (
    DELIVERY_PORT,
    HEALTH_PORT,
    VERSION,
    engine_address,
    pod_labels,
    runner_name,
    selector,
    slot_component,
    thing,
)
from enginehouse.registry.kubernetes.settings import ClusterSettings

_FOLDER = "/etc/enginehouse"
_USER = 65532
_SETTLING_SECONDS = 60
"""What a job may take beside its own time, as on one machine: to be claimed, settled and acknowledged."""
_SHUTDOWN_SECONDS = 10
"""For a sidecar to end when nothing is in hand any longer."""
_CONTENT = "enginehouse.dev/content"


def api_token(engine: str) -> str:
    """Return the Secret with the token that opens the sidecar's API to its runner."""
    return f"{engine}-dapr-api"


def app_token(engine: str) -> str:
    """Return the Secret with the token that proves the sidecar to its runner."""
    return f"{engine}-app"


def runner_files(engine: str, slot: Slot, files: dict[str, str]) -> dict[str, Any]:
    """Return the ConfigMap with what a runner reads: engine.yaml, and the example for the card if there is one."""
    return thing("v1", "ConfigMap", app_id(engine, slot), pod_labels(engine, slot, "runner"), data=files)


def runner_deployment(
    spec: EngineSpec, slot: Slot, files: dict[str, str], content: str, *, sleeps: bool, cluster: ClusterSettings
) -> dict[str, Any]:
    """Return the Deployment of a slot's runner: one, or none while the engine sleeps, which KEDA decides.

    A change of its `files` starts it anew, as it reads them once. `content` is the hash of what was deployed.
    """
    labels = pod_labels(spec.id, slot, "runner")
    longest = math.ceil(spec.execution_timeout_seconds) + _SETTLING_SECONDS
    annotations = {
        VERSION: spec.version,
        _CONTENT: hashlib.sha256(
            "\0".join(f"{name}\0{text}" for name, text in sorted(files.items())).encode()
        ).hexdigest(),
        **_sidecar(spec.id, slot, longest, cluster),
    }
    pod = {
        "serviceAccountName": "runner",
        "automountServiceAccountToken": False,  # Dapr gives the sidecar a token of its own, for nothing but its identity.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": longest + 2 * _SHUTDOWN_SECONDS,
        "containers": [_container(spec, slot, content, cluster.services_image)],
        "volumes": [{"name": "engine", "configMap": {"name": app_id(spec.id, slot)}}],
    }
    deployment: dict[str, Any] = {} if sleeps else {"replicas": 1}
    template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}
    deployment |= {"selector": {"matchLabels": selector(spec.id, slot, "runner")}, "template": template}
    return thing("apps/v1", "Deployment", runner_name(spec.id, slot), labels, spec=deployment)


def _container(spec: EngineSpec, slot: Slot, content: str, image: str) -> dict[str, Any]:
    plain = {
        "ENGINEHOUSE_RUNNER_SPEC": f"{_FOLDER}/{ENGINE_FILE}",
        "ENGINEHOUSE_RUNNER_SLOT": slot,
        "ENGINEHOUSE_RUNNER_ENGINE_SERVICE": engine_address(spec, slot),
        "ENGINEHOUSE_RUNNER_JOBS_COMPONENT": slot_component(spec.id, slot),
        "ENGINEHOUSE_RUNNER_DELIVERY_PORT": str(DELIVERY_PORT),
        "ENGINEHOUSE_RUNNER_HEALTH_PORT": str(HEALTH_PORT),
        "ENGINEHOUSE_RUNNER_DEPLOYMENT": content,
    }
    secret = {
        "ENGINEHOUSE_RUNNER_PROOF_KEY": (spec.id, "proof-key"),
        "DAPR_API_TOKEN": (api_token(spec.id), "token"),
        "APP_API_TOKEN": (app_token(spec.id), "token"),
    }
    return {
        "name": "runner",
        "image": image,
        "command": ["python", "-m", "enginehouse.runner"],
        "env": [
            *({"name": name, "value": value} for name, value in plain.items()),
            # A pod's name is its own, and stays when its container starts again.
            {"name": "ENGINEHOUSE_RUNNER_WORKER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": where, "key": key}}}
                for name, (where, key) in secret.items()
            ),
        ],
        "ports": [{"name": "health", "containerPort": HEALTH_PORT}],
        "resources": {
            # Most runners wait most of their time; together they get what those at work need.
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"cpu": "1", "memory": "512Mi"},
        },
        # Ready as soon as its engine works: what waits for a version's pods then waits for the version.
        "readinessProbe": {
            "httpGet": {"path": "/healthz/fit", "port": "health"},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz/live", "port": "health"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
        },
        "securityContext": CONFINED,
        "volumeMounts": [{"name": "engine", "mountPath": _FOLDER, "readOnly": True}],
    }


def _sidecar(engine: str, slot: Slot, longest: int, cluster: ClusterSettings) -> dict[str, str]:
    """Return the annotations of the sidecar: what it is told on one machine, and what only a cluster asks."""
    plain = {
        "ENGINEHOUSE_REDIS_HOST": cluster.broker,
        "GOMAXPROCS": "1",  # Spends a quarter less on a job than with two, and is enough for thousands of jobs a second.
    }
    login = {"ENGINEHOUSE_REDIS_USERNAME": "redis-username", "ENGINEHOUSE_REDIS_PASSWORD": "redis-password"}
    settings = {
        "enabled": "true",
        "app-id": app_id(engine, slot),
        "app-port": str(DELIVERY_PORT),
        "config": "runner",
        "api-token-secret": api_token(engine),
        "app-token-secret": app_token(engine),
        # As variables, and not as secrets of the component: one that is missing fails every component of the namespace.
        "env": ",".join(f"{name}={value}" for name, value in plain.items()),
        "env-from-secret": ",".join(f"{name}={engine}:{key}" for name, key in login.items()),
        "enable-app-health-check": "true",
        "app-health-check-path": "/healthz",
        "app-health-probe-interval": "1",
        "app-health-probe-timeout": "900",
        "app-health-threshold": "3",
        # What runs may end and be acknowledged. The sidecar goes last, as it is a native one.
        "block-shutdown-duration": f"{longest}s",
        "graceful-shutdown-seconds": str(_SHUTDOWN_SECONDS),
        "enable-native-sidecar": "true",
        # Only the Subscriptions of the bundle say what it is sent.
        "disable-init-endpoints": "subscribe,config",
        "disable-builtin-k8s-secret-store": "true",
        # Cards are bounded and inline results have at most 64 KiB. Only bulk reads of many results come near this limit.
        "max-body-size": "16Mi",
        "sidecar-cpu-request": "50m",
        "sidecar-cpu-limit": "1",
        "sidecar-memory-request": "64Mi",
        "sidecar-memory-limit": "256Mi",
        "sidecar-seccomp-profile-type": "RuntimeDefault",
        "log-as-json": "true",
    }
    return {f"dapr.io/{name}": value for name, value in settings.items()}
