"""Puts versions of an engine into its two slots, and says which slot gets its jobs.

The Subscriptions of a bundle are the only place that says so: the slot in the scopes of `engine/subscription.yaml` is
active, the one in those of `engine/subscription-trial.yaml` is on trial, and a slot in neither is kept for a rollback.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import WrongState
from enginehouse.contracts.names import NOBODY, SLOTS, Slot, app_id
from enginehouse.registry.bundle import (
    ACTIVE_FILE,
    ENGINE_FILE,
    TRIAL_FILE,
    WORKLOADS_FILE,
    InvalidBundle,
    Workload,
    example_of_slot,
    read_spec,
    read_workloads,
    render_engine,
    render_slot,
    render_workloads,
    secrets_of_slot,
    slot_folder,
    update_bundle,
    workload_of,
    write_bundle,
)
from enginehouse.registry.secrets import secrets_file

_NAMES_SECRETS = re.compile(r"^secrets:(?! \[\]$)", re.MULTILINE)


class NoOtherVersion(WrongState):
    """There is no version to promote or to go back to."""

    code = "NO_OTHER_VERSION"
    advice = "'enginehouse engines deploy FOLDER' brings one."


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one engine."""

    active: Slot | None
    trial: Slot | None
    promote: Slot | None
    """The slot on trial that becomes active as soon as it is fit to."""
    slots: dict[Slot, Workload]

    @property
    def running(self) -> list[Slot]:
        """Return the slots whose processes run."""
        return [slot for slot in SLOTS if slot in (self.active, self.trial)]

    @property
    def wanted(self) -> Slot | None:
        """Return the slot that is active, or will be."""
        return self.promote or self.active

    @property
    def idle(self) -> Slot:
        """Return the slot for the next version."""
        return "b" if self.active == "a" else "a"


def read_versions(bundle: Path) -> Versions:
    """Return the versions of the engine in `bundle`. Raise InvalidBundle if a file that says so cannot be read."""
    workloads = read_workloads(bundle / WORKLOADS_FILE)
    trial = _slot_of(bundle, TRIAL_FILE)
    promote = workloads.promote if workloads.promote == trial else None
    return Versions(_slot_of(bundle, ACTIVE_FILE), trial, promote, workloads.slots)


def put_version(bundle: Path, spec: EngineSpec, source: str, content: str, example: str = "", *, promote: bool) -> Slot:
    """Put a version into the idle slot, on trial; the first version of an engine becomes active. Return its slot.

    What was in that slot before is gone; the active version is not touched. With `promote`, whoever runs the engine
    makes the version active once it is healthy and has answered its own examples.
    """
    try:
        versions = read_versions(bundle)
    except InvalidBundle:  # There is none, or it is of no use.
        versions = None
    if versions is None or versions.active is None:
        write_bundle(bundle, render_engine(spec, source, content, example))
        return "a"
    workload, wanted = workload_of(spec, source, content), versions.wanted
    if wanted and versions.slots.get(wanted) == workload and spec_of(bundle, wanted) == spec:
        return wanted
    slot = versions.idle
    # Off trial first: its sidecar must not take jobs of the trial with the components of another version.
    _route(bundle, TRIAL_FILE, None)
    # The version there is forgotten before its files change, so that a rollback after a crash finds no mixture of two.
    kept = {other: one for other, one in versions.slots.items() if other != slot}
    workloads = render_workloads({**kept, slot: workload}, slot if promote else None)
    update_bundle(bundle, {WORKLOADS_FILE: render_workloads(kept)})
    files = {**render_slot(spec, slot, example), **_edited_secrets(bundle, versions.active, spec, slot)}
    update_bundle(bundle, files)
    for left in {secrets_of_slot(slot), example_of_slot(slot)} - files.keys():
        (bundle / left).unlink(missing_ok=True)
    update_bundle(bundle, {WORKLOADS_FILE: workloads})
    _route(bundle, TRIAL_FILE, slot)
    return slot


def _edited_secrets(bundle: Path, active: Slot, spec: EngineSpec, slot: Slot) -> dict[str, str]:
    """Return the secret store that somebody gave the active version by hand, such as a vault, for another slot.

    A store belongs to the engine and not to a version: whichever version comes gets the values of today.
    """
    if not spec.secrets:
        return {}
    try:
        store = yaml.safe_load((bundle / secrets_of_slot(active)).read_text())
    except (OSError, yaml.YAMLError):
        return {}
    if not isinstance(store, dict):
        return {}
    return {
        secrets_of_slot(slot): yaml.safe_dump(
            {**store, "scopes": [app_id(bundle.name, slot)]}, sort_keys=False, width=120
        )
    }


def go_back(bundle: Path) -> Slot:
    """Put the version before the active one on trial, to be promoted as a new one is. Return its slot.

    Raise NoOtherVersion if none is kept.
    """
    versions = read_versions(bundle)
    if versions.active is None or versions.idle not in versions.slots or versions.trial == versions.idle:
        raise NoOtherVersion(f"No version of {bundle.name} before the active one is kept")
    spec = spec_of(bundle, versions.idle)
    update_bundle(
        bundle,
        {
            **_edited_secrets(bundle, versions.active, spec, versions.idle),
            WORKLOADS_FILE: render_workloads(versions.slots, versions.idle),
        },
    )
    _route(bundle, TRIAL_FILE, versions.idle)
    return versions.idle


def promote_version(bundle: Path, judged: Workload | None = None) -> Slot:
    """Make the version on trial the active one, and keep the one before. Return its slot.

    Raise NoOtherVersion if none is on trial, or another one than was judged. Whatever a crash has left undone is done.
    """
    versions = read_versions(bundle)
    trial = versions.trial
    if trial is None or (judged and versions.slots.get(trial) != judged):
        raise NoOtherVersion(f"No version of {bundle.name} is on trial" if trial is None else "Another one is on trial")
    _route(bundle, ACTIVE_FILE, trial)
    _route(bundle, TRIAL_FILE, None)
    update_bundle(bundle, {WORKLOADS_FILE: render_workloads(versions.slots)})
    return trial


def drop_trial(bundle: Path, unfit: Workload) -> bool:
    """Take this version off trial and forget it; return False if another one is on trial by now."""
    versions = read_versions(bundle)
    if versions.trial is None or versions.trial == versions.active or versions.slots.get(versions.trial) != unfit:
        return False
    _route(bundle, TRIAL_FILE, None)
    kept = {slot: workload for slot, workload in versions.slots.items() if slot != versions.trial}
    update_bundle(bundle, {WORKLOADS_FILE: render_workloads(kept)})
    return True


def spec_of(bundle: Path, slot: Slot) -> EngineSpec:
    """Return the engine.yaml of a slot. Raise InvalidBundle if it cannot be read, or describes another engine."""
    path = bundle / slot_folder(slot) / ENGINE_FILE
    spec = read_spec(path)
    if spec.id != bundle.name:
        raise InvalidBundle(f"{path} describes {spec.id}; it must describe {bundle.name}")
    return spec


def declared_secrets(bundle: Path) -> list[str]:
    """Return the names of the secrets that the versions of an engine name, sorted. Raise InvalidBundle."""
    return sorted({name for slot in read_versions(bundle).slots for name in spec_of(bundle, slot).secrets})


def fingerprint(bundle: Path, slot: Slot) -> str:
    """Return a hash that changes when the slot's processes must restart. daprd itself reloads Dapr objects."""
    try:
        workload = read_workloads(bundle / WORKLOADS_FILE).slots.get(slot)
        engine = (bundle / slot_folder(slot) / ENGINE_FILE).read_text()
        wanted = [str(workload), engine, _secrets_changed(bundle) if _NAMES_SECRETS.search(engine) else ""]
    except (InvalidBundle, OSError, UnicodeError) as error:
        wanted = [str(error)]
    return hashlib.sha256("\0".join(wanted).encode()).hexdigest()


def _secrets_changed(bundle: Path) -> str:
    """Return the moment at which a value of the engine's secrets last changed; nothing of a value."""
    file = secrets_file(bundle.parent.parent, bundle.name)
    return str(file.stat().st_mtime_ns) if file.exists() else ""


def _route(bundle: Path, file: str, slot: Slot | None) -> None:
    """Let the topic of a Subscription lead to this slot alone, or to nobody."""
    content = _read_subscription(bundle / file)
    content["scopes"] = [app_id(bundle.name, slot)] if slot else [NOBODY]
    update_bundle(bundle, {file: yaml.safe_dump(content, sort_keys=False, width=120)})


def _slot_of(bundle: Path, file: str) -> Slot | None:
    scopes = _read_subscription(bundle / file).get("scopes")
    found = [slot for slot in SLOTS if isinstance(scopes, list) and app_id(bundle.name, slot) in scopes]
    if len(found) > 1:
        raise InvalidBundle(f"{bundle / file}: scopes must name one slot, not both: each would get a part of the jobs")
    return found[0] if found else None


def _read_subscription(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InvalidBundle(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InvalidBundle(f"{path} must hold exactly one object")
    return content
