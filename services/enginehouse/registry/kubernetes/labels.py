"""The names and labels that an engine's objects share, so that each finds the others."""

from typing import Any

from enginehouse.contracts.engine import ENGINE_PORT, EngineSpec
from enginehouse.contracts.names import Slot, app_id, jobs_component, tenant_of
from enginehouse.contracts.one_job import ONE_JOB_PORT

PART_OF = "app.kubernetes.io/part-of"
NAME = "app.kubernetes.io/name"
TENANT = "enginehouse.dev/tenant"
ENGINE = "enginehouse.dev/engine"
SLOT = "enginehouse.dev/slot"
VERSION = "enginehouse.dev/version"
BROKER = "enginehouse.dev/broker"
CREDENTIALS = "enginehouse.dev/credentials"
"""Annotation of pods with the hash of the Secrets that they read at their start, made by the deployer: another starts them anew."""
RUNTIME_CLASS, NODES, TOLERATES = (f"enginehouse.dev/{name}" for name in ("runtime-class", "nodes", "tolerates"))
"""Annotations of a tenant's namespace that say where its engines run."""
PRODUCT = "enginehouse"

DELIVERY_PORT = 8081
"""Of a runner, on its loopback address: its own sidecar sends jobs there."""
HEALTH_PORT = 8082
"""Of a runner, on all addresses: says whether it and its engine work."""
GATEWAY_PORT = 8080
SIDECAR_PORT = 50002
"""Where sidecars take calls of each other."""


def calls_port(spec: EngineSpec) -> int:
    """Return the port on which an engine's pods take calls: where each gets one job, that of the door before the engine."""
    return ONE_JOB_PORT if spec.one_job_each else ENGINE_PORT


def engine_address(spec: EngineSpec, slot: Slot) -> str:
    """Return where a runner finds the replicas of its engine."""
    return f"{app_id(spec.id, slot)}:{calls_port(spec)}"


def runner_name(engine: str, slot: Slot) -> str:
    """Return the name of a slot's runner."""
    return f"{app_id(engine, slot)}-runner"


def slot_component(engine: str, slot: Slot) -> str:
    """Return the pub/sub component of a slot: a namespace cannot hold two of one name, and a busy one is not edited."""
    return jobs_component(app_id(engine, slot))


def engine_labels(engine: str) -> dict[str, str]:
    """Return the labels of everything that belongs to an engine."""
    return {PART_OF: PRODUCT, TENANT: tenant_of(engine), ENGINE: engine}


def tenant_labels(tenant: str) -> dict[str, str]:
    """Return the labels of everything that belongs to a tenant."""
    return {PART_OF: PRODUCT, TENANT: tenant}


def pod_labels(engine: str, slot: Slot, kind: str) -> dict[str, str]:
    """Return the labels of a slot's pods; `kind` is engine or runner. Every selector names some of them."""
    return {**engine_labels(engine), SLOT: slot, NAME: kind}


def selector(engine: str, slot: Slot, kind: str) -> dict[str, str]:
    """Return the labels by which a slot's pods are found. The engine's id holds the tenant."""
    return {ENGINE: engine, SLOT: slot, NAME: kind}


def thing(api: str, kind: str, name: str, labels: dict[str, str], **content: Any) -> dict[str, Any]:
    """Return an object without a namespace: the folder that it is in says which."""
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": labels}, **content}
