"""Recognises operators by their API keys, from the tenants' files alone."""

from dataclasses import dataclass
from pathlib import Path

from enginehouse.contracts.errors import EnginehouseError, Forbidden, TenantSuspended, Unauthenticated
from enginehouse.contracts.names import check_name
from enginehouse.contracts.tenant import ApiKey, Tenant, hash_key, key_in, tenant_of_key
from enginehouse.registry.tenants import read_tenant


@dataclass(frozen=True, slots=True)
class Operator:
    """Who makes a call, for the log."""

    tenant: str
    key_id: str


def operator_of(tenants: Path, authorization: str | None) -> Operator:
    """Return the operator whose key an Authorization header holds.

    Raise Unauthenticated for a key that nobody has, and Forbidden for one that is not an operator's.
    """
    key = key_in(authorization or "")
    if not key:
        raise Unauthenticated("This call needs a header 'Authorization: Bearer KEY' with an operator's key")
    tenant = _tenant_of(tenants, key)
    known = _known(tenant, key) if tenant else None
    if tenant is None or known is None or tenant.removed:
        raise Unauthenticated("The API key is not known")
    if tenant.suspended:
        raise TenantSuspended(f"{tenant.name} is suspended")
    if not known.admin:
        raise Forbidden("This call needs an operator's key: 'enginehouse tenant add NAME --admin' makes one")
    return Operator(tenant.name, known.id)


def _known(tenant: Tenant, key: str) -> ApiKey | None:
    hashed = hash_key(key)
    return next((entry for entry in tenant.keys if entry.sha256 == hashed), None)


def _tenant_of(tenants: Path, key: str) -> Tenant | None:
    """Return the tenant that a key names, so that one file is read and not those of all tenants."""
    try:
        return read_tenant(tenants, check_name("tenant", tenant_of_key(key)))
    except (EnginehouseError, OSError):
        return None  # A file that is being edited has no keys.
