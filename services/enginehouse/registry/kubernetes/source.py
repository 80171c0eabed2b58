"""Read an engine's bundle as it is on disk, with whatever was edited there by hand, as data to render from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from enginehouse.contracts.engine import EXAMPLE_FILE, EngineSpec
from enginehouse.contracts.names import Slot
from enginehouse.registry.bundle import (
    ACTIVE_FILE,
    ENGINE_FILE,
    TRIAL_FILE,
    WORKLOADS_FILE,
    InvalidBundle,
    is_retired,
    slot_folder,
)
from enginehouse.registry.versions import read_versions, spec_of

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SlotSource:
    """A version that runs."""

    slot: Slot
    spec: EngineSpec
    content: str
    """Hash of the files that were deployed."""
    files: dict[str, str]
    """What its runner reads, by name."""
    components: list[Object] = field(default_factory=list)
    """What its sidecar loads, as it is in the bundle."""


@dataclass(frozen=True, slots=True)
class EngineSource:
    """An engine's bundle."""

    engine: str
    active: Slot | None
    trial: Slot | None
    slots: list[SlotSource]
    """The versions that run, the active one first. None of an engine that is being removed."""
    subscription: Object
    trial_subscription: Object
    gateway: list[Object]
    """What the gateway's sidecar loads."""


def read_source(bundle: Path) -> EngineSource:
    """Return the engine in `bundle`. Raise InvalidBundle, naming the file, if one of its files is wrong."""
    versions = read_versions(bundle)
    running: list[Slot] = [] if is_retired(bundle) else [slot for slot in (versions.active, versions.trial) if slot]
    return EngineSource(
        bundle.name,
        versions.active,
        versions.trial,
        [_read_slot(bundle, slot) for slot in dict.fromkeys(running)],
        _read_object(bundle / ACTIVE_FILE),
        _read_object(bundle / TRIAL_FILE),
        [_read_object(path) for path in sorted((bundle / "gateway").glob("*.yaml"))],
    )


def _read_slot(bundle: Path, slot: Slot) -> SlotSource:
    workload = read_versions(bundle).slots.get(slot)
    if workload is None:
        raise InvalidBundle(f"{bundle / WORKLOADS_FILE} has no slot {slot}, which its Subscriptions name")
    folder = bundle / slot_folder(slot)
    files = {name: (folder / name).read_text() for name in (ENGINE_FILE, EXAMPLE_FILE) if (folder / name).is_file()}
    components = [_read_object(path) for path in sorted((folder / "dapr").glob("*.yaml"))]
    return SlotSource(slot, spec_of(bundle, slot), workload.content, files, components)


def _read_object(path: Path) -> Object:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidBundle(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict) or "kind" not in content:
        raise InvalidBundle(f"{path} must hold exactly one object")
    return content
