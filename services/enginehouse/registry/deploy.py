"""Deploy an engine's folder as a bundle into a home; give a tenant its bundle and a key."""

from pathlib import Path

import yaml

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import InvalidName
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import EngineId, Slot, resolve_candidates
from enginehouse.contracts.tenant import ApiKey, Tenant, hash_key, new_key
from enginehouse.registry.artifacts import Show, forbidden_sources
from enginehouse.registry.bundle import (
    ENGINE_FILE,
    TENANT_FILE,
    InvalidBundle,
    Workload,
    read_spec,
    remove_bundle,
    render_tenant,
    write_bundle,
)
from enginehouse.registry.content import content_hash, deployed_files
from enginehouse.registry.requirements import environment_files
from enginehouse.registry.snapshot import only_deployer, remove_unused, snapshot_source, source_folder, take_snapshot
from enginehouse.registry.versions import drop_trial, go_back, promote_version, put_version, read_versions, spec_of

_KEY_ID_LENGTH = 12


def deploy_engine(
    engines: Path, folder: Path, spec: EngineSpec | None = None, *, promote: bool = True, show: Show = lambda _: None
) -> EngineSpec:
    """Copy `folder` and put it as a version into the bundle of its engine. Raise InvalidBundle if anything is wrong.

    The version runs from the copy, as its engine.yaml says or `spec` in its place. The process that watches `engines`
    starts it in the idle slot and, with `promote`, makes it the active one when it is fit to. The first version of an
    engine is active at once. `show` is told what is fetched meanwhile.
    """
    spec = spec or read_spec(folder / ENGINE_FILE)
    check_files(folder, spec)
    _check_sources(engines.parent / "tenants", folder, spec)
    with only_deployer(engines):
        content = take_snapshot(engines, spec.id, folder, spec.fetch, show)
        source = snapshot_source(spec.id, content)
        put_version(engines / spec.id, spec, source, content, promote=promote)
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


def _check_sources(tenants: Path, folder: Path, spec: EngineSpec) -> None:
    """Raise InvalidBundle if an artifact comes from where its tenant may not read.

    Where there are no tenants, a bundle is rendered for another place, with the rights of whoever does it.
    """
    if not spec.fetch or not tenants.is_dir():
        return
    tenant = read_tenant(tenants, spec.tenant)
    if mistakes := forbidden_sources(spec, tenant.fetch_from if tenant else ()):
        raise InvalidBundle("\n".join(f"{folder / ENGINE_FILE}: {mistake}" for mistake in mistakes))


def is_deployed(engines: Path, folder: Path, spec: EngineSpec) -> bool:
    """Return whether the version that is or will be active matches `folder`. If so, edits of the bundle are kept."""
    bundle = engines / spec.id
    try:
        versions = read_versions(bundle)
        if versions.wanted not in versions.slots or spec_of(bundle, versions.wanted) != spec:
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


def read_tenant(tenants: Path, name: str) -> Tenant | None:
    """Return the tenant of that name, or None."""
    path = tenants / name / TENANT_FILE
    return Tenant.model_validate(yaml.safe_load(path.read_text())) if path.is_file() else None


def has_key(tenants: Path, name: str, key: str) -> bool:
    """Return whether `key` is a key of that tenant."""
    tenant = read_tenant(tenants, name)
    return tenant is not None and hash_key(key) in {known.sha256 for known in tenant.keys}


def add_key(tenants: Path, name: str, *, admin: bool = False) -> str:
    """Make a new key for a tenant, and the tenant if it is new. Return the key; only its hash is stored."""
    tenant = read_tenant(tenants, name) or Tenant(name=name)
    key = new_key(name)
    entry = ApiKey(id=key[: len(name) + _KEY_ID_LENGTH], sha256=hash_key(key), admin=admin, created_at=now())
    write_bundle(tenants / name, render_tenant(tenant.model_copy(update={"keys": [*tenant.keys, entry]})))
    return key
