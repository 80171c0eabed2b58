"""Make, read and change the tenants of a home: their keys, limits and webhooks. Each change is one file, in one step."""

import base64
import secrets
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from enginehouse.contracts.base import explain
from enginehouse.contracts.errors import InvalidName, NotFound, RequestError, WrongState
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import check_form, check_name
from enginehouse.contracts.tenant import ACTIVE_WEBHOOK_SECRETS, ApiKey, Tenant, hash_key, new_key
from enginehouse.registry.bundle import (
    TENANT_FILE,
    InvalidBundle,
    reduce_bundle,
    remove_bundle,
    render_tenant,
    render_tenant_file,
    sweep_drafts,
    update_bundle,
    write_bundle,
)
from enginehouse.registry.locks import only_writer

_KEY_ID_LENGTH = 12


class TenantDoesNotExist(NotFound):
    """There is no such tenant."""

    code = "TENANT_DOES_NOT_EXIST"
    advice = "'enginehouse tenant list' shows the tenants there are."


class TenantExists(WrongState):
    """There is a tenant of this name."""

    code = "TENANT_EXISTS"
    advice = "Choose another name, or change the tenant there is."


class TenantRemoved(WrongState):
    """The tenant is being removed."""

    code = "TENANT_REMOVED"
    advice = "Wait until it is gone; its name is free then."


class TenantIsKept(WrongState):
    """The deployment itself needs the tenant."""

    code = "TENANT_IS_KEPT"
    advice = "It stays. Its limits bound what it may do."


class KeyDoesNotExist(NotFound):
    """There is no such key."""

    code = "KEY_DOES_NOT_EXIST"
    advice = "'enginehouse tenant list' shows the keys there are."


class InvalidSetting(RequestError):
    """A setting of a tenant cannot have this value."""

    code = "INVALID_SETTING"
    advice = "Correct the value as described."


def tenant_names(tenants: Path) -> list[str]:
    """Return the names of all tenants. Ignore everything that is not a tenant's folder."""
    return [path.name for path in sorted(tenants.iterdir()) if path.is_dir() and _is_name(path.name)]


def _is_name(text: str) -> bool:
    try:
        check_name("tenant", text)
    except InvalidName:
        return False
    return True


def read_tenant(tenants: Path, name: str) -> Tenant | None:
    """Return the tenant of that name, or None. Raise InvalidBundle that names the file if it cannot be read."""
    path = tenants / name / TENANT_FILE
    try:
        return Tenant.model_validate(yaml.safe_load(path.read_text())) if path.is_file() else None
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InvalidBundle(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise InvalidBundle(f"{path}: {explain(error, Tenant)}") from None


def read_tenants(tenants: Path) -> list[Tenant]:
    """Return all tenants, by name. Raise InvalidBundle that names a file if the file cannot be read."""
    found = (read_tenant(tenants, path.parent.name) for path in sorted(tenants.glob(f"*/{TENANT_FILE}")))
    return [tenant for tenant in found if tenant]


def existing_tenant(tenants: Path, name: str) -> Tenant:
    """Return the tenant of that name. Raise TenantDoesNotExist if there is none, as there is of a reserved name."""
    tenant = read_tenant(tenants, check_form("tenant", name))
    if tenant is None:
        raise TenantDoesNotExist(f"There is no tenant {name!r} here")
    return tenant


def is_removed(tenants: Path, name: str) -> bool:
    """Say whether a tenant is being removed. One whose file cannot be read is not."""
    try:
        tenant = read_tenant(tenants, name)
    except InvalidBundle:
        return False
    return tenant is not None and tenant.removed


def has_key(tenants: Path, name: str, key: str) -> bool:
    """Return whether `key` is a key of that tenant."""
    tenant = read_tenant(tenants, name)
    return tenant is not None and hash_key(key) in {known.sha256 for known in tenant.keys}


def add_tenant(tenants: Path, name: str, *, admin: bool = False, settings: Mapping[str, Any] | None = None) -> str:
    """Make a tenant with these fields of its tenant.yaml and a first key, and return the key.

    Raise TenantExists, or InvalidSetting that names the field. Only the key's hash is stored.
    """
    check_name("tenant", name)
    tenants.mkdir(parents=True, exist_ok=True)
    with only_writer(tenants):
        if found := read_tenant(tenants, name):
            _staying(found)
            raise TenantExists(f"There is a tenant {name!r} already")
        tenant, key = _with_key(_changed(Tenant(name=name), settings or {}), admin=admin)
        _write(tenants, tenant)
    return key


def add_another_key(tenants: Path, name: str, *, admin: bool = False) -> tuple[ApiKey, str]:
    """Make another key for a tenant. Return what is stored of it, and the key. Raise TenantDoesNotExist."""
    made: list[tuple[ApiKey, str]] = []

    def with_key(tenant: Tenant) -> Tenant:
        changed, key = _with_key(tenant, admin=admin)
        made.append((changed.keys[-1], key))
        return changed

    _change(tenants, name, with_key)
    return made[0]


def add_key(tenants: Path, name: str, *, admin: bool = False) -> str:
    """Make a new key for a tenant, and the tenant if it is new. Return the key; only its hash is stored."""
    check_name("tenant", name)
    tenants.mkdir(parents=True, exist_ok=True)
    with only_writer(tenants):
        tenant, key = _with_key(_staying(read_tenant(tenants, name) or Tenant(name=name)), admin=admin)
        _write(tenants, tenant)
    return key


def _staying(tenant: Tenant) -> Tenant:
    if tenant.removed:
        raise TenantRemoved(f"Tenant {tenant.name!r} is being removed")
    return tenant


def _with_key(tenant: Tenant, *, admin: bool) -> tuple[Tenant, str]:
    key = new_key(tenant.name)
    entry = ApiKey(id=key[: len(tenant.name) + _KEY_ID_LENGTH], sha256=hash_key(key), admin=admin, created_at=now())
    return tenant.model_copy(update={"keys": [*tenant.keys, entry]}), key


def revoke_key(tenants: Path, name: str, key: str) -> ApiKey:
    """Remove the one key of a tenant that is, or starts with, `key`.

    Raise TenantDoesNotExist, or KeyDoesNotExist unless exactly one matches.
    """
    removed: list[ApiKey] = []

    def without(tenant: Tenant) -> Tenant:
        meant = [entry for entry in tenant.keys if key and (entry.id.startswith(key) or key.startswith(entry.id))]
        if len(meant) != 1:
            raise KeyDoesNotExist(f"Tenant {name!r} has {len(meant) or 'no'} keys that start with {key[:20]!r}")
        removed.extend(meant)
        return tenant.model_copy(update={"keys": [entry for entry in tenant.keys if entry is not meant[0]]})

    _change(tenants, name, without)
    return removed[0]


def change_tenant(tenants: Path, name: str, settings: Mapping[str, Any]) -> Tenant:
    """Set fields of a tenant's tenant.yaml; `limits` may hold only those that change. Return the tenant.

    Raise TenantDoesNotExist, or InvalidSetting that names the field.
    """
    return _change(tenants, name, lambda tenant: _changed(tenant, settings))


def remove_tenant(tenants: Path, name: str, kept: Collection[str]) -> Tenant:
    """Begin to remove a tenant; once more changes nothing. Raise TenantDoesNotExist, or TenantIsKept for those in `kept`.

    Its keys stop working, and its bundle no longer lets its events in. The gateway then deletes its data, and whoever
    runs the deployment removes its engines and, at the end, forgets it.
    """
    existing_tenant(tenants, name)
    if name in kept:
        raise TenantIsKept(f"Tenant {name!r} is needed by the deployment itself")
    with only_writer(tenants):
        leaving = existing_tenant(tenants, name).model_copy(update={"removed": True, "keys": [], "webhook": None})
        reduce_bundle(tenants / name, {TENANT_FILE: render_tenant_file(leaving)})
    return leaving


def forget_tenant(tenants: Path, webhook_secrets: Path, name: str) -> None:
    """Delete the bundle and the signing secrets of a tenant of which nothing is left anywhere else.

    A change of it that was killed may have left a part of the bundle beside it, which goes with it.
    """
    (webhook_secrets / name).unlink(missing_ok=True)
    with only_writer(tenants):
        sweep_drafts(tenants)
        remove_bundle(tenants / name)


def sweep(tenants: Path) -> None:
    """Delete what changes of tenants that were killed have left."""
    with only_writer(tenants):
        sweep_drafts(tenants)


def rotate_webhook_secret(folder: Path, name: str) -> str:
    """Return a new signing secret for a tenant's webhooks. The previous secret stays valid, older ones do not."""
    check_name("tenant", name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    kept = path.read_text().split()[: ACTIVE_WEBHOOK_SECRETS - 1] if path.exists() else []
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    draft = folder / f".{name}"
    draft.touch(mode=0o600)
    draft.write_text("\n".join([secret, *kept]) + "\n")
    draft.replace(path)
    return secret


def _changed(tenant: Tenant, settings: Mapping[str, Any]) -> Tenant:
    limits = {**tenant.limits.model_dump(), **(settings.get("limits") or {})}
    try:
        return Tenant.model_validate({**tenant.model_dump(), **settings, "limits": limits})
    except ValidationError as error:
        raise InvalidSetting(explain(error, Tenant)) from None


def _change(tenants: Path, name: str, change: Callable[[Tenant], Tenant]) -> Tenant:
    existing_tenant(tenants, name)
    with only_writer(tenants):
        changed = change(_staying(existing_tenant(tenants, name)))
        _write(tenants, changed)
    return changed


def _write(tenants: Path, tenant: Tenant) -> None:
    """Write a tenant's bundle, or in one that exists its settings alone: what stands beside them may be edited by hand."""
    if (tenants / tenant.name).is_dir():
        update_bundle(tenants / tenant.name, {TENANT_FILE: render_tenant_file(tenant)})
    else:
        write_bundle(tenants / tenant.name, render_tenant(tenant))
