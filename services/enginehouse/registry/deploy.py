"""Deploy an engine's folder as a bundle into a home, and change which of its versions gets the jobs."""

from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import InvalidName
from enginehouse.contracts.names import EngineId, Slot, resolve_candidates
from enginehouse.registry.bundle import (
    ENGINE_FILE,
    InvalidBundle,
    Workload,
    read_spec,
    remove_bundle,
)
from enginehouse.registry.content import content_hash
from enginehouse.registry.requirements import environment_files
from enginehouse.registry.snapshot import only_deployer, remove_unused, snapshot_source, source_folder, take_snapshot
from enginehouse.registry.versions import drop_trial, go_back, promote_version, put_version, read_versions, spec_of


def deploy_engine(engines: Path, folder: Path, *, promote: bool = True) -> EngineSpec:
    """Copy `folder` and put it as a version into the bundle of its engine. Raise InvalidBundle if anything is wrong.

    The version runs from the copy. The process that watches `engines` starts it in the idle slot and, with `promote`,
    makes it the active one when it is fit to. The first version of an engine is active at once.
    """
    spec = read_spec(folder / ENGINE_FILE)
    if spec.run:
        environment_files(folder, spec.run.requirements)
    with only_deployer(engines):
        content = take_snapshot(engines, spec.id, folder)
        source = snapshot_source(spec.id, content)
        put_version(engines / spec.id, spec, source, content, promote=promote)
        remove_unused(engines, spec.id)
    return spec


def is_deployed(engines: Path, folder: Path, spec: EngineSpec) -> bool:
    """Return whether the version that is or will be active matches `folder`. If so, edits of the bundle are kept."""
    bundle = engines / spec.id
    try:
        versions = read_versions(bundle)
        if versions.wanted not in versions.slots or spec_of(bundle, versions.wanted) != spec:
            return False
        workload = versions.slots[versions.wanted]
        content = content_hash(folder)
    except (InvalidBundle, OSError):
        return False  # If the folder itself is wrong, deploying it says why.
    is_named = workload.content == content and workload.source == snapshot_source(spec.id, content)
    return is_named and source_folder(bundle, workload.source).is_dir()


def promote_engine(engines: Path, engine_id: str, judged: Workload | None = None) -> Slot:
    """Make an engine's version on trial, if it is the one that was judged, the active one. Raise NoOtherVersion."""
    with only_deployer(engines):
        return promote_version(engines / engine_id, judged)


def roll_back_engine(engines: Path, engine_id: str) -> Slot:
    """Bring an engine's version before the active one back. Raise NoOtherVersion."""
    with only_deployer(engines):
        return go_back(engines / engine_id)


def drop_trial_of(engines: Path, engine_id: str, unfit: Workload) -> bool:
    """Take a version that is not fit off trial; return False if another one is on trial by now."""
    with only_deployer(engines):
        return drop_trial(engines / engine_id, unfit)


def deployed_engine(engines: Path, name: str, tenant: str) -> str:
    """Return the id of the bundle that `name` means to `tenant`: its own engine, or a shared one. Raise InvalidName."""
    candidates = [str(candidate) for candidate in resolve_candidates(name, tenant)]
    for candidate in candidates:
        if (engines / candidate).is_dir():
            return candidate
    others = sorted(path.name for path in engines.glob(f"*--{name}"))
    meant = f"; it may be {' or '.join(others)}: give the whole id" if others else ""
    raise InvalidName(f"engine {' or '.join(candidates)} is not deployed here{meant}")


def remove_engine(engines: Path, engine_id: str) -> None:
    """Delete an engine's bundle; the process that watches `engines` stops the engine.

    Raise InvalidName if there is none.
    """
    name = str(EngineId.parse(engine_id))
    with only_deployer(engines):
        if not remove_bundle(engines / name):
            raise InvalidName(f"engine {engine_id!r} is not deployed here")
        remove_unused(engines, name)
