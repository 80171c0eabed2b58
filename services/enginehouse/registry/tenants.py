"""The tenants of a home, and the end of their keys."""

from pathlib import Path

from pydantic import ValidationError

from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.names import check_name
from enginehouse.contracts.tenant import ApiKey, Tenant
from enginehouse.registry.bundle import TENANT_FILE, InvalidBundle, render_tenant, write_bundle
from enginehouse.registry.deploy import read_tenant


class KeyDoesNotExist(RequestError):
    """No such key."""

    code = "KEY_DOES_NOT_EXIST"
    advice = "'enginehouse tenant list' shows the keys there are."


def read_tenants(tenants: Path) -> list[Tenant]:
    """All tenants, by name; InvalidBundle names a file that cannot be read."""
    found = []
    for path in sorted(tenants.glob(f"*/{TENANT_FILE}")):
        try:
            tenant = read_tenant(tenants, path.parent.name)
        except ValidationError as error:
            raise InvalidBundle(f"{path}: {error.error_count()} fields are wrong") from None
        if tenant:
            found.append(tenant)
    return found


def revoke_key(tenants: Path, name: str, key: str) -> ApiKey:
    """Forget the one key of a tenant that starts as `key` does, or is it; KeyDoesNotExist if there is not exactly one."""
    tenant = read_tenant(tenants, check_name("tenant", name))
    known = tenant.keys if tenant else []
    meant = [entry for entry in known if key and (entry.id.startswith(key) or key.startswith(entry.id))]
    if tenant is None or len(meant) != 1:
        raise KeyDoesNotExist(f"Tenant {name!r} has {len(meant) or 'no'} keys that start with {key[:20]!r}")
    kept = [entry for entry in known if entry is not meant[0]]
    write_bundle(tenants / name, render_tenant(tenant.model_copy(update={"keys": kept})))
    return meant[0]
