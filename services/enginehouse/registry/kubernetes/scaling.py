"""How many replicas an engine has: as many as its unfinished jobs need, asked of the gateway, whatever the broker."""

from typing import Any

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import Slot, app_id
from enginehouse.registry.kubernetes.labels import pod_labels, runner_name, thing
from enginehouse.registry.kubernetes.settings import ClusterSettings

ASLEEP_POLL_SECONDS = 2
"""How often KEDA asks after the jobs of an engine that may sleep: the longest time until it begins to wake up."""


def is_scaled(spec: EngineSpec) -> bool:
    """Say whether the number of an engine's replicas changes by itself."""
    return spec.scale.min != spec.scale.max


def sleeps(spec: EngineSpec) -> bool:
    """Say whether an engine may have no replicas, and then no runner."""
    return spec.scale.min == 0


def scaled_objects(spec: EngineSpec, slot: Slot, cluster: ClusterSettings) -> list[dict[str, Any]]:
    """Return what scales the active slot of an engine, and its runner if the engine may sleep."""
    found = []
    if is_scaled(spec) and not spec.one_job_each:
        bounds = {"minReplicaCount": spec.scale.min, "maxReplicaCount": spec.scale.max}
        triggers = [jobs_trigger(spec, cluster), *_cpu(cluster)]
        found.append(_scaled(spec, slot, "engine", app_id(spec.id, slot), bounds, triggers, cluster))
    if sleeps(spec):
        bounds = {"minReplicaCount": 0, "maxReplicaCount": 1}
        found.append(
            _scaled(spec, slot, "runner", runner_name(spec.id, slot), bounds, [jobs_trigger(spec, cluster)], cluster)
        )
    return found


def _scaled(
    spec: EngineSpec,
    slot: Slot,
    kind: str,
    name: str,
    bounds: dict[str, int],
    triggers: list[dict[str, Any]],
    cluster: ClusterSettings,
) -> dict[str, Any]:
    # Of the two delays one holds for the last replica, which KEDA stops, and one for the others, which an HPA does.
    window = {"stabilizationWindowSeconds": cluster.asleep_after_seconds}
    shrinking = {"horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": window}}}
    waking = (
        {"pollingInterval": ASLEEP_POLL_SECONDS, "cooldownPeriod": cluster.asleep_after_seconds} if sleeps(spec) else {}
    )
    content = {"scaleTargetRef": {"name": name}, **bounds, **waking, "advanced": shrinking, "triggers": triggers}
    return thing("keda.sh/v1alpha1", "ScaledObject", name, pod_labels(spec.id, slot, kind), spec=content)


def jobs_trigger(spec: EngineSpec, cluster: ClusterSettings) -> dict[str, Any]:
    """Return what KEDA asks the gateway: how many jobs of the engine have not ended."""
    metadata = {
        "url": f"{cluster.gateway_url}/scaling/{spec.id}",
        "valueLocation": "unfinished_jobs",
        "targetValue": str(spec.jobs_at_once),  # So many jobs for each replica keep all of them at work.
    }
    return {"type": "metrics-api", "metadata": metadata}


def _cpu(cluster: ClusterSettings) -> list[dict[str, Any]]:
    if cluster.cpu_percent is None:
        return []
    return [{"type": "cpu", "metricType": "Utilization", "metadata": {"value": str(cluster.cpu_percent)}}]
