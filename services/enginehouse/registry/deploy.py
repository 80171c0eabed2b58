"""Deploy an engine's folder as a bundle into a home, and change which of its versions gets the jobs."""

from collections.abc import Callable
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import EngineDoesNotExist, InvalidName, WrongState
from enginehouse.contracts.names import EngineId, Slot, engine_of, is_trial, resolve_candidates
from enginehouse.registry.artifacts import Show
from enginehouse.registry.bundle import (
    ENGINE_FILE,
    InvalidBundle,
    Workload,
    is_retired,
    read_spec,
    remove_bundle,
    render_retired,
    sweep_drafts,
    update_bundle,
)
from enginehouse.registry.content import content_hash, deployed_files, read_example
from enginehouse.registry.disk import BUNDLE_BYTES, check_room
from enginehouse.registry.requirements import environment_files
from enginehouse.registry.snapshot import (
    engines_with_copies,
    fetched,
    is_held,
    only_deployer,
    remove_copies,
    remove_unused,
    snapshot_source,
    source_folder,
    take_snapshot,
)
from enginehouse.registry.versions import drop_trial, go_back, promote_version, put_version, read_versions, spec_of


class EngineRetiring(WrongState):
    """The engine is being removed."""

    code = "ENGINE_RETIRING"
    advice = "Wait until it is gone, which takes seconds while Enginehouse runs; then deploy it again."


class SlotBusy(WrongState):
    """The version that a new one is to take the place of still ends its jobs."""

    code = "SLOT_BUSY"
    advice = "Deploy again when they have ended; each has its execution timeout at most."


def deploy_engine(
    engines: Path,
    folder: Path,
    spec: EngineSpec | None = None,
    *,
    promote: bool = True,
    show: Show = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> EngineSpec:
    """Copy `folder` and put it as a version into the bundle of its engine.

    The version runs from the copy, as its engine.yaml says or `spec` in its place. The process that watches `engines`
    starts it in the idle slot and, with `promote`, makes it the active one when it is fit to. The first version of an
    engine is active at once. `show` is told what is fetched meanwhile. `check` is called when nobody else deploys any
    longer, and raises if the version must not come: fetching and waiting take long, and much may change meanwhile.

    Raise InvalidBundle if a file is wrong, DiskFull if there is no room for the version, and SlotBusy while the version
    before the active one still ends jobs.
    """
    spec = spec or read_spec(folder / ENGINE_FILE)
    check_files(folder, spec)
    with fetched(engines, spec.id, spec.fetch, show) as brought, only_deployer(engines):
        check_stays(engines / spec.id)
        check_slot(engines / spec.id)
        content = take_snapshot(engines, spec.id, folder, brought)
        try:
            check()
            check_room(engines.parent, BUNDLE_BYTES)
            source, example = snapshot_source(spec.id, content), read_example(folder)
            put_version(engines / spec.id, spec, source, content, example, promote=promote)
        finally:
            remove_unused(engines, spec.id)
    return spec


def check_files(folder: Path, spec: EngineSpec) -> None:
    """Raise InvalidBundle if the folder lacks a file that its engine.yaml names and that nothing brings there."""
    program = spec.program
    if program:
        environment_files(folder, program.requirements, program.wheel)
    here = {*deployed_files(folder), *(artifact.file for artifact in spec.fetch)}
    for name, place in (("module", spec.module), ("model", spec.model)):
        if place and place.file not in here:
            raise InvalidBundle(f"{folder / ENGINE_FILE}: {name}.file: there is no file {place.file} in {folder}.")


def is_deployed(engines: Path, folder: Path, spec: EngineSpec) -> bool:
    """Return whether the version that is or will be active matches `folder`. If so, edits of the bundle are kept."""
    bundle = engines / spec.id
    try:
        versions = read_versions(bundle)
        if is_retired(bundle) or versions.wanted not in versions.slots or spec_of(bundle, versions.wanted) != spec:
            return False
        workload = versions.slots[versions.wanted]
        content = content_hash(folder, spec.fetch)
    except (InvalidBundle, OSError):
        return False  # If the folder itself is wrong, deploying it says why.
    is_named = workload.content == content and workload.source == snapshot_source(spec.id, content)
    return is_named and source_folder(bundle, workload.source).is_dir()


def promote_engine(engines: Path, engine_id: str, judged: Workload | None = None) -> Slot:
    """Make an engine's version on trial, if it is the one that was judged, the active one. Raise NoOtherVersion."""
    with only_deployer(engines):
        check_stays(engines / engine_id)
        return promote_version(engines / engine_id, judged)


def roll_back_engine(engines: Path, engine_id: str) -> Slot:
    """Bring an engine's version before the active one back. Raise NoOtherVersion."""
    with only_deployer(engines):
        check_stays(engines / engine_id)
        return go_back(engines / engine_id)


def drop_trial_of(engines: Path, engine_id: str, unfit: Workload) -> bool:
    """Take a version that is not fit off trial; return False if another one is on trial by now."""
    with only_deployer(engines):
        return drop_trial(engines / engine_id, unfit)


def deployed_engine(engines: Path, name: str, tenant: str) -> str:
    """Return the id of the bundle that `name` means to `tenant`: its own engine, or a shared one.

    Raise InvalidName for what cannot name an engine, such as a version on trial, and EngineDoesNotExist.
    """
    if is_trial(name):
        raise InvalidName(f"{name!r} is a version on trial: name the engine, {engine_of(name)!r}")
    candidates = [str(candidate) for candidate in resolve_candidates(name, tenant)]
    for candidate in candidates:
        if (engines / candidate).is_dir():
            return candidate
    others = sorted(path.name for path in engines.glob(f"*--{name}"))
    meant = f"; it may be {' or '.join(others)}: give the whole id" if others else ""
    raise EngineDoesNotExist(f"engine {' or '.join(candidates)} is not deployed here{meant}")


def check_stays(bundle: Path) -> None:
    """Raise EngineRetiring if an engine is being removed."""
    if is_retired(bundle):
        raise EngineRetiring(f"{bundle.name} is being removed")


def check_slot(bundle: Path) -> None:
    """Raise SlotBusy while a version whose place the next one takes still ends jobs.

    Its sidecar would load the next one's components, and deliver again what is in hand.
    """
    if slot := busy_slot(bundle):
        raise SlotBusy(f"The version of {bundle.name} before the active one still ends its jobs in slot {slot}")


def busy_slot(bundle: Path) -> Slot | None:
    """Return the slot for the next version if the one that was there before still ends jobs."""
    try:
        versions = read_versions(bundle)
    except InvalidBundle:
        return None
    former, slot = versions.slots.get(versions.idle), versions.idle
    if former is None or slot in versions.running:
        return None
    used = {versions.slots[other].source for other in versions.running if other in versions.slots}
    # Of a copy that another slot uses as well, nobody can say for which slot it is held.
    is_busy = former.source not in used and is_held(source_folder(bundle, former.source))
    return slot if is_busy else None


def remove_engine(engines: Path, engine_id: str) -> None:
    """Begin to remove an engine; once more changes nothing. Raise EngineDoesNotExist.

    The gateway then refuses new jobs and ends the others; whoever runs the engine stops it, and forgets it at the end.
    """
    name = str(EngineId.parse(engine_id))
    with only_deployer(engines):
        if not (engines / name).is_dir():
            raise EngineDoesNotExist(f"engine {engine_id} is not deployed here")
        update_bundle(engines / name, render_retired(name))


def sweep(engines: Path) -> None:
    """Delete what deployments that were killed have left: drafts of bundles, and copies that no engine uses."""
    with only_deployer(engines):
        sweep_drafts(engines)
        for engine_id in engines_with_copies(engines):
            remove_unused(engines, engine_id)


def forget_engine(engines: Path, engine_id: str) -> None:
    """Delete the copies and the bundle of an engine of which nothing is left anywhere else.

    The bundle goes last: it is the only memory of the removal, should this process be killed. A change of it that was
    killed may have left a part of the bundle beside it, which goes with it.
    """
    with only_deployer(engines):
        sweep_drafts(engines)
        remove_copies(engines, engine_id)
        remove_bundle(engines / engine_id)
