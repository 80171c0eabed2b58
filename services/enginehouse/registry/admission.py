"""Says what of an engine.yaml cannot be deployed here, before anything is written."""

import difflib
import os
from collections.abc import Collection

from enginehouse.contracts.engine import EngineSpec
from enginehouse.registry.bundle import local_replicas


def mistakes_here(spec: EngineSpec, tenants: Collection[str] | None) -> list[str]:
    """Say what of an engine.yaml cannot be deployed on this machine, for these tenants. None: for any tenant."""
    return [*_wrong_tenant(spec, tenants), *_no_program(spec), *_too_much_memory(spec)]


def _wrong_tenant(spec: EngineSpec, tenants: Collection[str] | None) -> list[str]:
    if tenants is None or spec.tenant in tenants:
        return []
    near = difflib.get_close_matches(spec.tenant, tenants, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return [f"tenant: there is no tenant {spec.tenant!r} here; {hint}'enginehouse tenant add {spec.tenant}' makes it"]


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
