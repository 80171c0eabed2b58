"""The Dapr objects of an engine for a cluster, from those of its bundle: edits by hand go on, names and scopes differ."""

import copy
from collections.abc import Mapping
from typing import Any

from enginehouse.contracts.names import Slot, app_id, app_ids, jobs_component, results_component
from enginehouse.registry.bundle import InvalidBundle, jobs_settings, local_replicas
from enginehouse.registry.kubernetes.labels import engine_labels, pod_labels, slot_component
from enginehouse.registry.kubernetes.parts import Object
from enginehouse.registry.kubernetes.source import EngineSource, SlotSource

_LOCAL_FILE = "secretstores.local.file"
"""Type of the store of an engine's secrets on one machine. In a cluster they are a Secret."""


def slot_components(source: SlotSource) -> list[Object]:
    """Return the pub/sub component that a slot has for itself. Raise InvalidBundle if the bundle has none for it."""
    engine, slot = source.spec.id, source.slot
    jobs = _named(source, jobs_component(engine))
    local, here = (
        jobs_settings(source.spec, replicas) for replicas in (local_replicas(source.spec), source.spec.scale.max)
    )
    for item in jobs["spec"].get("metadata") or []:
        # A setting that nobody has edited follows the most replicas that there may be, as its runner is one for all.
        if item.get("name") in here and item.get("value") == local[item["name"]]:
            item["value"] = here[item["name"]]
    return [_placed(jobs, slot_component(engine, slot), pod_labels(engine, slot, "runner"), [app_id(engine, slot)])]


def shared_components(source: EngineSource) -> list[Object]:
    """Return the components of both slots: the results, and what was added by hand. The active slot's are used.

    Raise InvalidBundle if two versions that run say different things of a component that they would share.
    """
    found: dict[str, Object] = {}
    for slot in source.slots:
        _named(slot, results_component(source.engine))
        for component in slot.components:
            name = component["metadata"]["name"]
            if name == jobs_component(source.engine) or component["spec"].get("type") == _LOCAL_FILE:
                continue
            placed = _placed(component, name, engine_labels(source.engine), app_ids(source.engine))
            if found.setdefault(name, placed) != placed:
                raise InvalidBundle(
                    f"{source.engine}: component {name} differs between the slots, and a namespace has one of a name"
                )
    return list(found.values())


def subscriptions(source: EngineSource) -> list[Object]:
    """Return the two Subscriptions. The component in each is that of the slot in its scopes, so both change together."""
    idle: Slot = "b" if source.active == "a" else "a"
    return [
        _subscribed(source.subscription, source.engine, source.active or "a"),
        _subscribed(source.trial_subscription, source.engine, source.trial or idle),
    ]


def gateway_objects(source: EngineSource) -> list[Object]:
    """Return what the gateway's sidecar loads of an engine, as it is in the bundle."""
    return [labelled(item, engine_labels(source.engine)) for item in source.gateway]


def labelled(item: Object, labels: Mapping[str, str]) -> Object:
    """Return a copy of an object with these labels beside its own."""
    made = copy.deepcopy(item)
    metadata = {"name": made["metadata"]["name"], "labels": {**made["metadata"].get("labels", {}), **labels}}
    made["metadata"] = {**made["metadata"], **metadata}
    return made


def _subscribed(item: Object, engine: str, slot: Slot) -> Object:
    made = labelled(item, engine_labels(engine))
    made["spec"]["pubsubname"] = slot_component(engine, slot)
    return made


def _named(source: SlotSource, name: str) -> Object:
    for component in source.components:
        if component["metadata"]["name"] == name:
            return copy.deepcopy(component)
    raise InvalidBundle(f"{source.spec.id}: slot {source.slot} has no component {name} in dapr/")


def _placed(component: Object, name: str, labels: dict[str, str], scopes: list[str]) -> Object:
    made: dict[str, Any] = labelled(component, labels)
    made["metadata"]["name"] = name
    return {**made, "scopes": scopes}
