"""Deploy an engine's folder as a bundle into a home; give a tenant its bundle and a key."""

from pathlib import Path

import yaml

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import InvalidName
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import EngineId
from enginehouse.contracts.tenant import ApiKey, Tenant, hash_key, new_key
from enginehouse.registry.bundle import (
    ENGINE_FILE,
    TENANT_FILE,
    WORKLOADS_FILE,
    InvalidBundle,
    read_spec,
    read_workloads,
    remove_bundle,
    render_engine,
    render_tenant,
    write_bundle,
)
from enginehouse.registry.content import content_hash

_KEY_ID_LENGTH = 12


def deploy_engine(engines: Path, folder: Path) -> EngineSpec:
    """Write the bundle of the engine in `folder`. Raise InvalidBundle if it is wrong.

    The process that watches `engines` starts the engine, and restarts it if a file in `folder` has changed.
    """
    spec = read_spec(folder / ENGINE_FILE)
    if spec.run and spec.run.requirements and not (folder / spec.run.requirements).is_file():
        raise InvalidBundle(f"{folder / ENGINE_FILE}: run.requirements: there is no file {spec.run.requirements}")
    write_bundle(engines / spec.id, render_engine(spec, folder))
    return spec


def is_deployed(engines: Path, folder: Path, spec: EngineSpec) -> bool:
    """Return whether the bundle matches `folder` as it is now. If so, the owner's edits of the bundle are kept."""
    bundle = engines / spec.id
    try:
        if read_spec(bundle / ENGINE_FILE) != spec:
            return False
        workloads = read_workloads(bundle / WORKLOADS_FILE)
    except InvalidBundle:
        return False
    return workloads.source == str(folder.resolve()) and workloads.content == content_hash(folder)


def remove_engine(engines: Path, engine_id: str) -> None:
    """Delete an engine's bundle; the process that watches `engines` stops the engine.

    Raise InvalidName if there is none.
    """
    if not remove_bundle(engines / str(EngineId.parse(engine_id))):
        raise InvalidName(f"engine {engine_id!r} is not deployed here")


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
