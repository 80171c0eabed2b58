"""A Kubernetes API server in memory, as the registry's deployer calls it, whose Deployments get pods at once."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from enginehouse.registry.deployer.api import ClusterAway, ClusterRefused, Listed
from enginehouse.registry.deployer.kinds import DEPLOYMENT, NAMESPACE, POD, WATCHED, Kind, Ref, ref_of
from enginehouse.registry.kubernetes.labels import NAME
from enginehouse.registry.kubernetes.parts import Object


@dataclass
class FakeCluster:
    """Knows labels, owners and watches, and nothing of what objects mean but Deployments."""

    objects: dict[Ref, Object] = field(default_factory=dict)
    applied: list[Ref] = field(default_factory=list)
    """In the order in which they were applied, each as often as it was."""
    deleted: list[Ref] = field(default_factory=list)
    is_away: bool = False
    drains: bool = False
    """Whether runners' pods end only when `end_pods` is called."""
    unready: set[str] = field(default_factory=set)
    """Names of Deployments whose pods do not get ready."""
    room: dict[str, int] = field(default_factory=dict)
    """By Deployment: how many of its pods get ready at most."""
    refuses: Callable[[Object], bool] = lambda _: False
    """Says which changes the API server refuses."""
    _sized: set[Ref] = field(default_factory=set)
    """Deployments whose number of replicas was set by a change: an apply without one leaves it alone."""
    _version: int = 0
    _watches: list[tuple[Kind, "asyncio.Queue[tuple[str, Object]]"]] = field(default_factory=list)

    async def apply(self, content: Object, *, dry_run: bool = False) -> Object:
        self._check()
        ref = ref_of(content)
        made = self._merged(ref, content)
        if dry_run:
            return made
        self.applied.append(ref)
        self._put(ref, made)
        if ref.kind == DEPLOYMENT:
            self._run_pods(ref)
        return copy.deepcopy(self.objects[ref])

    def _merged(self, ref: Ref, content: Object) -> Object:
        before = self.objects.get(ref, {})
        made = {**copy.deepcopy(before), **copy.deepcopy(content)}
        made["metadata"] = {"uid": f"uid-{ref}", **before.get("metadata", {}), **made["metadata"], "generation": 1}
        if ref in self._sized and "replicas" not in made["spec"]:
            made["spec"]["replicas"] = before["spec"]["replicas"]
        return made

    async def merge(self, ref: Ref, change: Object) -> Object | None:
        self._check()
        if ref not in self.objects:
            return None
        if self.refuses(change):
            raise ClusterRefused("it is too long", 422)
        content: Object = _patched(self.objects[ref], change)
        if content != self.objects[ref]:
            self._put(ref, content)
            if ref.kind == DEPLOYMENT:
                self._sized.update({ref} if "replicas" in change.get("spec", {}) else ())
                self._run_pods(ref)
        return copy.deepcopy(self.objects[ref])

    async def read(self, ref: Ref) -> Object | None:
        self._check()
        return copy.deepcopy(self.objects.get(ref))

    async def delete(self, ref: Ref, *, selector: str | None = None, **options: Any) -> bool:
        self._check()
        if selector:
            for found in [one for one in self.objects if one.kind == ref.kind and self._fits(one, selector)]:
                self._drop(found)
            return True
        if ref not in self.objects:
            return False
        content = self.objects[ref]
        self.deleted.append(ref)
        self._drop(ref)
        for inside in [one for one in self.objects if ref.kind == NAMESPACE and one.namespace == ref.name]:
            self._drop(inside)
        is_runner = content["metadata"].get("labels", {}).get(NAME) == "runner"
        if ref.kind == DEPLOYMENT and options.get("propagationPolicy") != "Orphan" and not (self.drains and is_runner):
            self.end_pods(ref.name)
        return True

    async def list(self, kind: Kind, selector: str, namespace: str = "") -> Listed:
        self._check()
        found = [
            copy.deepcopy(content)
            for ref, content in self.objects.items()
            if ref.kind == kind and self._fits(ref, selector) and namespace in ("", ref.namespace)
        ]
        return Listed(found, str(self._version))

    async def watch(self, kind: Kind, selector: str, since: str) -> AsyncGenerator[tuple[str, Object]]:
        events: asyncio.Queue[tuple[str, Object]] = asyncio.Queue()
        self._watches.append((kind, events))
        while True:
            yield await events.get()

    def pods(self) -> "set[str]":
        """Return the names of all pods."""
        return {ref.name for ref in self.objects if ref.kind == POD}

    def end_pods(self, deployment: str) -> None:
        """Let the pods of a Deployment end."""
        for ref in [one for one in self.objects if one.kind == POD and one.name == f"{deployment}-pod"]:
            self._drop(ref)

    def make_job(self, ref: Ref, status: Object | None = None) -> Ref:
        """Make the pod of a job, as KEDA and Kubernetes do for a ScaledJob, and return its name."""
        labels = self.objects[ref]["spec"]["jobTargetRef"]["template"]["metadata"]["labels"]
        pod = Ref(POD, ref.namespace, f"{ref.name}-x7k2p-abcde")
        metadata = {"name": pod.name, "namespace": pod.namespace, "uid": f"uid-{pod}", "labels": labels}
        self._put(pod, {"metadata": metadata, "status": status or {}})
        return pod

    def add(self, ref: Ref, content: Object) -> None:
        """Let somebody else make an object."""
        self._put(ref, content)

    def get_unready(self, ref: Ref) -> None:
        """Let the pods of a Deployment no longer be ready."""
        self.unready.add(ref.name)
        self._run_pods(ref)

    def get_ready(self, ref: Ref) -> None:
        """Let the pods of a Deployment be ready."""
        self.unready.discard(ref.name)
        self._run_pods(ref)

    def _run_pods(self, ref: Ref) -> None:
        deployment = copy.deepcopy(self.objects[ref])
        wanted = deployment["spec"].get("replicas", 1)
        ready = 0 if ref.name in self.unready else min(wanted, self.room.get(ref.name, wanted))
        deployment["status"] = {
            "observedGeneration": 1,
            "replicas": wanted,
            "updatedReplicas": wanted,
            "availableReplicas": ready,
        }
        self._put(ref, deployment)
        pod = Ref(POD, ref.namespace, f"{ref.name}-pod")
        if wanted:
            template = deployment["spec"]["template"]["metadata"]
            status = {"podIP": "10.1.1.1", "containerStatuses": [{"name": "one", "state": {"running": {}}}]}
            metadata = {"name": pod.name, "namespace": pod.namespace, "uid": f"uid-{pod}", "labels": template["labels"]}
            self._put(pod, {"metadata": metadata, "status": status})
        elif pod in self.objects:
            self._drop(pod)

    def _check(self) -> None:
        if self.is_away:
            raise ClusterAway("the API server is away")

    def _fits(self, ref: Ref, selector: str) -> bool:
        labels = self.objects[ref]["metadata"].get("labels") or {}
        wanted = [part.partition("=") for part in selector.split(",")]
        return all(labels.get(name) == value if equals else name in labels for name, equals, value in wanted)

    def _put(self, ref: Ref, content: Object) -> None:
        self._version += 1
        content["metadata"]["resourceVersion"] = str(self._version)
        self.objects[ref] = content
        self._tell(ref.kind, "MODIFIED", content)

    def _drop(self, ref: Ref) -> None:
        self._version += 1
        self._tell(ref.kind, "DELETED", self.objects.pop(ref))

    def _tell(self, kind: Kind, event: str, content: Object) -> None:
        if kind not in WATCHED or "enginehouse.dev/tenant" not in (content["metadata"].get("labels") or {}):
            return
        for watched, events in self._watches:
            if watched == kind:
                events.put_nowait((event, copy.deepcopy(content)))


def _patched(before: Any, change: Any) -> Any:
    """Return a value as a JSON merge patch leaves it."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    made = copy.deepcopy(before) if isinstance(before, dict) else {}
    for name, value in change.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = _patched(made.get(name), value)
    return made
