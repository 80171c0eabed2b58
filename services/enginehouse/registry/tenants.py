"""List the tenants of a home, change their webhooks and revoke their keys."""

import base64
import secrets
from pathlib import Path

from pydantic import ValidationError

from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.names import check_name, resolve_candidates
from enginehouse.contracts.tenant import ACTIVE_WEBHOOK_SECRETS, ApiKey, Tenant
from enginehouse.registry.bundle import TENANT_FILE, InvalidBundle, render_tenant, write_bundle
from enginehouse.registry.deploy import read_tenant


class TenantDoesNotExist(RequestError):
    """There is no such tenant."""

    code = "TENANT_DOES_NOT_EXIST"
    advice = "'enginehouse tenant list' shows the tenants there are."


class KeyDoesNotExist(RequestError):
    """There is no such key."""

    code = "KEY_DOES_NOT_EXIST"
    advice = "'enginehouse tenant list' shows the keys there are."


def read_tenants(tenants: Path) -> list[Tenant]:
    """Return all tenants, by name. Raise InvalidBundle that names a file if the file cannot be read."""
    found = []
    for path in sorted(tenants.glob(f"*/{TENANT_FILE}")):
        try:
            tenant = read_tenant(tenants, path.parent.name)
        except ValidationError as error:
            raise InvalidBundle(f"{path}: {error.error_count()} fields are wrong") from None
        if tenant:
            found.append(tenant)
    return found


def existing_tenant(tenants: Path, name: str) -> Tenant:
    """Return the tenant of that name. Raise TenantDoesNotExist if there is none."""
    tenant = read_tenant(tenants, check_name("tenant", name))
    if tenant is None:
        raise TenantDoesNotExist(f"There is no tenant {name!r} here")
    return tenant


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


def set_webhook(tenants: Path, name: str, url: str | None) -> Tenant:
    """Set or remove the URL for notices about a tenant's engines. Raise TenantDoesNotExist or InvalidBundle."""
    tenant = existing_tenant(tenants, name)
    try:
        changed = Tenant.model_validate({**tenant.model_dump(), "webhook": url})
    except ValidationError:
        raise InvalidBundle(f"{url!r} cannot be a webhook: it must begin with http:// or https://") from None
    write_bundle(tenants / name, render_tenant(changed))
    return changed


def set_default_engine(tenants: Path, name: str, engine: str) -> Tenant:
    """Set the engine of a tenant's jobs that name none. Raise TenantDoesNotExist, or InvalidName if it cannot be one."""
    resolve_candidates(engine, name)
    changed = existing_tenant(tenants, name).model_copy(update={"default_engine": engine})
    write_bundle(tenants / name, render_tenant(changed))
    return changed


def revoke_key(tenants: Path, name: str, key: str) -> ApiKey:
    """Remove the one key of a tenant that is, or starts with, `key`.

    Raise KeyDoesNotExist unless exactly one matches.
    """
    tenant = read_tenant(tenants, check_name("tenant", name))
    known = tenant.keys if tenant else []
    meant = [entry for entry in known if key and (entry.id.startswith(key) or key.startswith(entry.id))]
    if tenant is None or len(meant) != 1:
        raise KeyDoesNotExist(f"Tenant {name!r} has {len(meant) or 'no'} keys that start with {key[:20]!r}")
    kept = [entry for entry in known if entry is not meant[0]]
    write_bundle(tenants / name, render_tenant(tenant.model_copy(update={"keys": kept})))
    return meant[0]
