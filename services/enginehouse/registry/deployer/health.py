"""Says how a slot is, by what the cluster says about its Deployments and pods.

An engine with `mode: job` has no Deployment: it runs if its runner does, and a pod of it may wait for a job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from enginehouse.contracts.names import Slot, app_id, namespace, tenant_of
from enginehouse.registry.deployer.bring import Bringing
from enginehouse.registry.deployer.inventory import Seen
from enginehouse.registry.deployer.kinds import DEPLOYMENT, SCALED_JOB, Ref
from enginehouse.registry.kubernetes.labels import runner_name
from enginehouse.registry.kubernetes.parts import Object

SlotState = Literal["starting", "running", "failed"]
_BROKEN = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
"""Reasons for which a container waits that do not pass by themselves."""


@dataclass(frozen=True, slots=True)
class SlotHealth:
    """How a slot is."""

    state: SlotState
    problem: str | None = None
    """Why it does not work."""
    doing: str | None = None
    """What its start waits for."""
    has_engine: bool = False
    """Whether all pods of the engine itself are ready."""
    runner: str | None = None
    """Address of a runner that is up, to be asked what it finds."""


def slot_health(bringing: Bringing, engine: str, slot: Slot) -> SlotHealth:
    """Return how a slot is. It runs if each of its Deployments has all its pods, of the present kind, and all are ready."""
    of_jobs = Ref(SCALED_JOB, namespace(tenant_of(engine)), app_id(engine, slot)) in bringing.inventory.found
    names = _names(engine, slot)
    found = {kind: _deployment(bringing, engine, name) for kind, name in names if kind == "runner" or not of_jobs}
    pods = {kind: [seen for seen in bringing.pods(engine, slot, kind) if not seen.is_leaving] for kind, _ in names}
    runner = next((ip for seen in pods["runner"] if (ip := _address(seen))), None)
    for kind, deployment in found.items():
        if deployment and (problem := _problem(deployment, pods[kind])):
            return SlotHealth("failed", f"{_SAID[kind]} {problem}", runner=runner)
    if of_jobs and (problem := _broken_pod(pods["engine"])):
        return SlotHealth("failed", f"{_SAID['engine']} {problem}", runner=runner)
    unready = [kind for kind, deployment in found.items() if not deployment or not _is_complete(deployment)]
    # What is seen of pods may come later than what is seen of their Deployment.
    if not unready and runner is None and not _sleeps(found["runner"]):
        unready = ["runner"]
    has_engine = any(map(_address, pods["engine"])) if of_jobs else "engine" not in unready
    if not unready:
        return SlotHealth("running", has_engine=has_engine, runner=runner)
    doing = "; ".join(_doing(kind, pods[kind]) for kind in unready)
    return SlotHealth("starting", doing=doing, has_engine=has_engine, runner=runner)


_SAID = {"engine": "Its pod", "runner": "Its runner's pod"}


def _names(engine: str, slot: Slot) -> Sequence[tuple[str, str]]:
    return (("engine", app_id(engine, slot)), ("runner", runner_name(engine, slot)))


def _deployment(bringing: Bringing, engine: str, name: str) -> Object | None:
    seen = bringing.inventory.found.get(Ref(DEPLOYMENT, namespace(tenant_of(engine)), name))
    return seen.content if seen else None


def _is_complete(deployment: Object) -> bool:
    """Say whether all pods are of the present kind and ready. One that sleeps has none, and is complete."""
    status: dict[str, int] = deployment.get("status", {})
    generation: int = deployment["metadata"]["generation"]
    wanted: int = deployment["spec"].get("replicas", 1)
    return (
        status.get("observedGeneration", 0) >= generation
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("availableReplicas", 0) >= wanted
        and status.get("replicas", 0) <= max(wanted, status.get("updatedReplicas", 0))
    )


def _sleeps(deployment: Object | None) -> bool:
    return deployment is not None and deployment["spec"].get("replicas", 1) == 0


def _problem(deployment: Object, pods: Sequence[Seen]) -> str | None:
    for condition in deployment.get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"cannot be made: {condition.get('message')}"
    return _broken_pod(pods)


def _broken_pod(pods: Sequence[Seen]) -> str | None:
    for seen in sorted(pods, key=_made_at, reverse=True):
        if found := _broken(seen):
            return found
    return None


def _broken(seen: Seen) -> str | None:
    status = (seen.content or {}).get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") not in _BROKEN:
            continue
        said = " ".join(filter(None, [waiting["reason"], waiting.get("message")]))
        return f"does not start: container {container['name']}: {said}{_last_end(container)}"
    return None


def _last_end(container: Object) -> str:
    ended = container.get("lastState", {}).get("terminated")
    if not ended:
        return ""
    said = ended.get("message") or ""
    return f"; it ended with status {ended.get('exitCode')} ({ended.get('reason')}) {said}".rstrip()


def _doing(kind: str, pods: Sequence[Seen]) -> str:
    who = _SAID[kind].lower()
    if not pods:
        return f"{who} is made"
    newest = max(pods, key=_made_at).content or {}
    for condition in newest.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return f"{who} waits for a node: {condition.get('message')}"
    return f"{who} starts"


def _made_at(seen: Seen) -> str:
    made: str = (seen.content or {}).get("metadata", {}).get("creationTimestamp", "")
    return made


def _address(seen: Seen) -> str | None:
    """Return the address of a pod whose containers all run."""
    status = (seen.content or {}).get("status", {})
    containers = status.get("containerStatuses", [])
    runs = containers and all("running" in container.get("state", {}) for container in containers)
    return status.get("podIP") if runs else None
