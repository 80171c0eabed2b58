"""Operate acme's engine `echo` on a gateway: quarantine, resume, purge and remove it, and read its state and events."""

import json
from typing import Any

import httpx2
from tests.support.gateway import ECHO, GatewayWorld
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.events import ENGINE_STATE_EVENTS
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.sidecar.fake import FakeDapr

ECHO_STORE = names.results_component(ECHO)


def engine(world: GatewayWorld) -> KnownEngine:
    """Return the engine `echo` as the gateway knows it."""
    found = world.gateway.catalogue.get(ECHO)
    assert found is not None
    return found


async def submit_many(world: GatewayWorld, times: int) -> list[str]:
    """Submit that many jobs, and return their ids in order."""
    return [await world.submit(number) for number in range(times)]


async def listed(world: GatewayWorld) -> dict[str, dict[str, Any]]:
    """Return the tenant's jobs as the API lists them, by id."""
    answer = await world.client().get("/v1/jobs", params={"limit": 1_000})
    return {job["id"]: job for job in answer.json()["jobs"]}


async def operate(world: GatewayWorld, what: str, body: Any = None, engine_id: str = ECHO) -> httpx2.Response:
    """Quarantine, resume or purge an engine with the administrator's key."""
    return await world.client("admin").post(f"/v1/engines/{engine_id}/{what}", json=body)


def told(world: GatewayWorld, tenant: str = "acme") -> list[dict[str, Any]]:
    """Return the events published to the tenant's own systems, in order."""
    return [json.loads(event) for event in world.dapr.published[names.finished_topic(tenant)]]


def told_kinds(world: GatewayWorld) -> list[str]:
    """Return the engine's new state in each event that the tenant got, in order."""
    transitions = {kind: state for state, kind in ENGINE_STATE_EVENTS.items()}
    return [transitions[event["type"]] for event in told(world)]


def control(dapr: FakeDapr) -> Any:
    """Return what the engine's runner was told about delivery, or None if it was told nothing."""
    entry = dapr.stores[ECHO_STORE].get(names.CONTROL_KEY)
    return json.loads(entry.value) if entry else None


async def remove(world: GatewayWorld) -> None:
    """Take the engine's component from the sidecar, and wait until the gateway has retired the engine."""
    world.dapr.components.discard(names.results_component(ECHO))

    async def gone() -> bool:
        await world.gateway.catalogue.refresh()
        return engine(world).state == EngineState.RETIRED

    await until_async(gone)
