"""Read an engine's bundle as it is on disk, with whatever was edited there by hand, as data to render from."""

import math
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
from enginehouse.registry.kubernetes.parts import Object
from enginehouse.registry.versions import read_versions, spec_of

_COMPONENT = ("dapr.io/v1alpha1", "Component")
_SUBSCRIPTION = ("dapr.io/v2alpha1", "Subscription")
_PLAIN = (str, bool, int, type(None))


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
        _read_object(bundle / ACTIVE_FILE, _SUBSCRIPTION),
        _read_object(bundle / TRIAL_FILE, _SUBSCRIPTION),
        [_read_object(path, _COMPONENT, _SUBSCRIPTION) for path in sorted((bundle / "gateway").glob("*.yaml"))],
    )


def _read_slot(bundle: Path, slot: Slot) -> SlotSource:
    workload = read_versions(bundle).slots.get(slot)
    if workload is None:
        raise InvalidBundle(f"{bundle / WORKLOADS_FILE} has no slot {slot}, which its Subscriptions name")
    folder = bundle / slot_folder(slot)
    files = {name: _read_text(folder / name) for name in (ENGINE_FILE, EXAMPLE_FILE) if (folder / name).is_file()}
    components = [_read_object(path, _COMPONENT) for path in sorted((folder / "dapr").glob("*.yaml"))]
    return SlotSource(slot, spec_of(bundle, slot), workload.content, files, components)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeError:
        raise InvalidBundle(f"{path} is not UTF-8") from None
    except OSError as error:
        raise InvalidBundle(f"{path} cannot be read: {error}") from None


def _read_object(path: Path, *kinds: tuple[str, str]) -> Object:
    """Return the object in a file, of one of these kinds (apiVersion and kind). Raise InvalidBundle that says what is wrong."""
    try:
        content = yaml.safe_load(_read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date that there is not.
        raise InvalidBundle(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict) or "kind" not in content:
        raise InvalidBundle(f"{path} must hold exactly one object")
    if (content.get("apiVersion"), content["kind"]) not in kinds:
        wanted = " or ".join(f"{kind} of {api}" for api, kind in kinds)
        raise InvalidBundle(f"{path} must hold a {wanted}, not {content['kind']} of {content.get('apiVersion')}")
    name = content["metadata"].get("name")
    if not isinstance(name, str) or not name:
        raise InvalidBundle(f"{path}: metadata.name must be a text")
    for place in ("spec", "metadata.labels", "metadata.annotations"):
        holder, _, key = place.rpartition(".")
        found = (content[holder] if holder else content).get(key, {} if holder else None)
        if not isinstance(found, dict):
            raise InvalidBundle(f"{path}: {place} must hold keys and values")
    _check_plain(path, content, "")
    return content


def _check_plain(path: Path, value: Any, place: str) -> None:
    """Raise InvalidBundle for what JSON, and so the API server, does not know, such as a date that is not in quotes."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if not isinstance(key, str):
                raise InvalidBundle(f"{path}: {place or 'the object'} has the key {key!r}: write it in quotes")
            _check_plain(path, inside, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, inside in enumerate(value):
            _check_plain(path, inside, f"{place}[{index}]")
    elif not isinstance(value, _PLAIN) and not (isinstance(value, float) and math.isfinite(value)):
        raise InvalidBundle(f"{path}: {place} is a {type(value).__name__}: write it in quotes")
