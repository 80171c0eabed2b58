"""Says what of an engine.yaml cannot be deployed here, before anything is written."""

import difflib
import os
import sys
from collections.abc import Collection

from enginehouse.contracts.engine import EngineSpec
from enginehouse.registry.bundle import local_replicas
from enginehouse.registry.kubernetes.engine import NoImage, check_image


def mistakes_here(
    spec: EngineSpec, tenants: Collection[str] | None, *, in_containers: bool = False, in_cluster: bool = False
) -> list[str]:
    """Say what of an engine.yaml cannot be deployed here, for these tenants. None: for any tenant.

    `in_cluster`: it is to run in a Kubernetes cluster, and not on this machine.
    """
    if in_cluster:
        return [*_wrong_tenant(spec, tenants), *_no_image(spec)]
    missing = [] if in_containers and spec.image else _no_program(spec)
    return [*_wrong_tenant(spec, tenants), *missing, *_too_much_memory(spec)]


def without_effect(spec: EngineSpec, *, in_containers: bool = False, in_cluster: bool = False) -> list[str]:
    """Say which settings of an engine.yaml have no effect here: on this machine as a process or in containers, or in a cluster."""
    if in_cluster:
        return []
    return [*([] if in_containers else _not_for_processes(spec)), *_not_without_scaling(spec)]


def in_a_cluster_only(spec: EngineSpec) -> list[str]:
    """Say whether an engine.yaml asks for what holds in a cluster only.

    That no process sees two jobs would not hold on one machine, where nobody would notice.
    """
    if not spec.one_job_each:
        return []
    return [
        "mode: job runs in Kubernetes only; here replicas take one job after another: with `mode: service` it runs here"
    ]


def _not_for_processes(spec: EngineSpec) -> list[str]:
    resources = spec.resources
    if spec.program is None:
        return []
    found = []
    if "cpu" in resources.model_fields_set:
        found.append("resources.cpu is not enforced: an engine that runs as a process may use every core.")
    if resources.gpu:
        found.append("resources.gpu is not enforced: an engine that runs as a process may use every GPU.")
    if sys.platform != "linux":
        found.append("resources.memory is not enforced: only Linux limits the memory of a process.")
    return found


def _not_without_scaling(spec: EngineSpec) -> list[str]:
    replicas = local_replicas(spec)
    found = []
    if spec.scale.min == 0:
        found.append("scale.min is taken as 1: here nothing would wake an engine without replicas.")
    if spec.scale.max > replicas:
        found.append(f"scale.max is not used: here an engine has as many replicas as scale.min says, now {replicas}.")
    return found


def _wrong_tenant(spec: EngineSpec, tenants: Collection[str] | None) -> list[str]:
    if tenants is None or spec.tenant in tenants:
        return []
    near = difflib.get_close_matches(spec.tenant, tenants, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return [f"tenant: there is no tenant {spec.tenant!r} here; {hint}'enginehouse tenant add {spec.tenant}' makes it"]


def _no_image(spec: EngineSpec) -> list[str]:
    try:
        check_image(spec)
    except NoImage as error:
        return [f"image: {error}. {error.advice}"]
    return []


def _no_program(spec: EngineSpec) -> list[str]:
    if spec.program:
        return []
    has = f"{spec.image} runs in a container only, and here engines run as processes" if spec.image else "nothing runs"
    return [f"run: {has}; add `run: {{command: [...]}}`, or a `module` or `model` that the engine package serves"]


def _too_much_memory(spec: EngineSpec) -> list[str]:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    replicas = local_replicas(spec)
    if spec.program is None or spec.resources.memory_bytes * replicas <= machine:
        return []
    wanted = spec.resources.memory + (f" for each of {replicas} replicas" if replicas > 1 else "")
    return [f"resources.memory: {wanted} is more than this machine has ({machine // 2**20}Mi)"]
