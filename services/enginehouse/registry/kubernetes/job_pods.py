"""The pods of an engine with `mode: job`: KEDA makes one for each job, and it ends with that."""

from typing import Any

from enginehouse.contracts.engine import ENGINE_PORT, EngineSpec
from enginehouse.contracts.names import Slot, app_id
from enginehouse.contracts.one_job import ONE_JOB_PORT
from enginehouse.registry.kubernetes.engine_workload import (
    CONFINED,
    LOAD_SECONDS,
    engine_container,
    engine_pod,
)
from enginehouse.registry.kubernetes.labels import VERSION, pod_labels, thing
from enginehouse.registry.kubernetes.scaling import ASLEEP_POLL_SECONDS, jobs_trigger
from enginehouse.registry.kubernetes.settings import ClusterSettings

_USER = 65532
_IDLE_SECONDS = 60
"""So long a pod waits for its job once its engine is ready. KEDA may have made one too many, when a job has ended meanwhile."""
_FAILED_KEPT = 3


def job_pods(spec: EngineSpec, slot: Slot, *, on_trial: bool, cluster: ClusterSettings) -> dict[str, Any]:
    """Return what makes a pod for each unfinished job, at most `scale.max`. A version on trial has one pod that waits."""
    labels = pod_labels(spec.id, slot, "engine")
    pod = engine_pod(spec, cluster.placement) | {
        "restartPolicy": "Never",
        # The engine is not process 1 then, which would ignore SIGTERM unless it says otherwise: the pod would stay for its grace.
        "shareProcessNamespace": True,
        # A native sidecar: it is up before the door opens, and goes when that has closed.
        "initContainers": [{**engine_container(spec), "restartPolicy": "Always"}],
        "containers": [_door(cluster.services_image)],
    }
    job = {
        "backoffLimit": 0,  # The queue tries again, in a fresh pod, and counts.
        "activeDeadlineSeconds": LOAD_SECONDS + _IDLE_SECONDS + pod["terminationGracePeriodSeconds"],
        "template": {"metadata": {"labels": labels, "annotations": {VERSION: spec.version}}, "spec": pod},
    }
    content = {
        "jobTargetRef": job,
        "pollingInterval": ASLEEP_POLL_SECONDS,
        # On trial one waits, as nothing counts the jobs of a trial.
        "minReplicaCount": 1 if on_trial else 0,
        "maxReplicaCount": 1 if on_trial else spec.scale.max,
        "successfulJobsHistoryLimit": 0,
        "failedJobsHistoryLimit": _FAILED_KEPT,
        "rollout": {"strategy": "gradual"},  # A change does not end the pods of before in mid-job.
        "triggers": [jobs_trigger(spec, cluster)],
    }
    return thing("keda.sh/v1alpha1", "ScaledJob", app_id(spec.id, slot), labels, spec=content)


def _door(image: str) -> dict[str, Any]:
    settings = {"--port": ONE_JOB_PORT, "--engine-port": ENGINE_PORT, "--idle-seconds": _IDLE_SECONDS}
    return {
        "name": "door",
        "image": image,
        "command": ["python", "-m", "enginehouse.oneshot"],
        "args": [str(word) for setting in settings.items() for word in setting],
        "ports": [{"name": "job", "containerPort": ONE_JOB_PORT}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
        # Not the engine's user, who could then stop it.
        "securityContext": {**CONFINED, "runAsUser": _USER, "runAsGroup": _USER},
    }
