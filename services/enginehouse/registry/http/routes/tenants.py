"""/v1/tenants: makes tenants and their keys, and sets their limits."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from enginehouse.contracts.names import DEFAULT_ENGINE
from enginehouse.registry.http.dependencies import Caller, WiredRegistry, in_thread, note
from enginehouse.registry.tenants import (
    add_another_key,
    add_tenant,
    change_tenant,
    existing_tenant,
    read_tenants,
    remove_tenant,
    revoke_key,
)
from enginehouse.registry.views import TenantView, tenant_view
from enginehouse.web.openapi import body_schema, problems
from enginehouse.web.requests import NoQueryAllowed, read_model
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1", tags=["tenants"])

TenantPath = Annotated[str, Path(max_length=64)]
KeyPath = Annotated[str, Path(max_length=200, description="The key's id, as listed.")]


class TenantList(BaseModel):
    """All tenants."""

    tenants: list[TenantView]


class TenantSettings(BaseModel):
    """What can be set of a tenant. What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    limits: dict[str, float] | None = Field(
        None, description="Limits of tenant.yaml by their names; those that are left out stay as they are."
    )
    webhook: str | None = Field(None, description="Where to POST notices about its engines. null: nowhere.")
    publish_finished: bool = Field(False, description="Whether the end of every job is published on finished.<tenant>.")

    default_engine: str = Field(DEFAULT_ENGINE, description="Engine of its jobs that name none.")
    fetch_from: list[str] = Field(
        default_factory=list, description="URLs below which `fetch` of its engines may name files."
    )
    suspended: bool = Field(False, description="Whether its new work is refused. What it submitted goes on.")

    def given(self) -> dict[str, Any]:
        """Return the fields that were given."""
        return self.model_dump(exclude_unset=True, include=set(TenantSettings.model_fields))


class NewTenant(TenantSettings):
    """The body of POST /v1/tenants."""

    name: str
    admin: bool = Field(False, description="Whether its first key is an operator's.")


class MadeTenant(BaseModel):
    """A tenant that was just made."""

    tenant: TenantView
    api_key: str = Field(description="Its first key. It is shown only now.")


class NewKey(BaseModel):
    """The body of POST /v1/tenants/{tenant}/keys."""

    model_config = ConfigDict(extra="forbid")

    admin: bool = Field(False, description="Whether it is an operator's.")


class MadeKey(BaseModel):
    """A key that was just made."""

    id: str
    api_key: str = Field(description="The key. It is shown only now.")


@router.get("/tenants", response_model=TenantList, responses=problems(403), dependencies=[NoQueryAllowed])
async def list_tenants(registry: WiredRegistry, caller: Caller) -> Response:
    """List the tenants."""
    found = await in_thread(read_tenants, registry.settings.tenants_dir)
    return json_answer(TenantList(tenants=[tenant_view(tenant) for tenant in found]))


@router.post(
    "/tenants",
    status_code=201,
    response_model=MadeTenant,
    responses=problems(403, 409, 415),
    openapi_extra=body_schema(NewTenant),
    dependencies=[NoQueryAllowed],
)
async def make_tenant(request: Request, registry: WiredRegistry, caller: Caller) -> Response:
    """Make a tenant with a first key."""
    body = await read_model(request, NewTenant)
    tenants = registry.settings.tenants_dir
    if "default_engine" in body.given():
        await in_thread(registry.engines.check_default, body.name, body.default_engine)
    key = await in_thread(add_tenant, tenants, body.name, admin=body.admin, settings=body.given())
    note(caller, f"makes tenant {body.name}", "tenant_made", tenant=body.name)
    made = MadeTenant(tenant=tenant_view(await in_thread(existing_tenant, tenants, body.name)), api_key=key)
    return json_answer(made, 201, {"Location": f"/v1/tenants/{body.name}"})


@router.get("/tenants/{tenant}", response_model=TenantView, responses=problems(403, 404), dependencies=[NoQueryAllowed])
async def read_tenant(registry: WiredRegistry, caller: Caller, tenant: TenantPath) -> Response:
    """Show a tenant."""
    return json_answer(tenant_view(await in_thread(existing_tenant, registry.settings.tenants_dir, tenant)))


@router.patch(
    "/tenants/{tenant}",
    response_model=TenantView,
    responses=problems(403, 404, 409, 415),
    openapi_extra=body_schema(TenantSettings),
    dependencies=[NoQueryAllowed],
)
async def set_tenant(request: Request, registry: WiredRegistry, caller: Caller, tenant: TenantPath) -> Response:
    """Change settings of a tenant. They hold within a second."""
    given = (await read_model(request, TenantSettings)).given()
    if "default_engine" in given:
        await in_thread(registry.engines.check_default, tenant, given["default_engine"])
    changed = await in_thread(change_tenant, registry.settings.tenants_dir, tenant, given)
    note(caller, f"sets {', '.join(given) or 'nothing'} of tenant {tenant}", "tenant_changed", tenant=tenant)
    return json_answer(tenant_view(changed))


@router.delete(
    "/tenants/{tenant}",
    status_code=202,
    response_model=TenantView,
    responses=problems(403, 404, 409),
    dependencies=[NoQueryAllowed],
)
async def remove(registry: WiredRegistry, caller: Caller, tenant: TenantPath) -> Response:
    """Remove a tenant with its data: its keys stop working, its jobs end as canceled, its engines and all it has are deleted."""
    settings = registry.settings
    leaving = await in_thread(remove_tenant, settings.tenants_dir, tenant, settings.kept_tenants)
    note(caller, f"removes tenant {tenant}", "tenant_removed", tenant=tenant)
    return json_answer(tenant_view(leaving), 202)


@router.post(
    "/tenants/{tenant}/keys",
    status_code=201,
    response_model=MadeKey,
    responses=problems(403, 404, 409, 415),
    openapi_extra=body_schema(NewKey),
    dependencies=[NoQueryAllowed],
)
async def make_key(request: Request, registry: WiredRegistry, caller: Caller, tenant: TenantPath) -> Response:
    """Make another key for a tenant. To change keys: make one, give it out, then revoke the old one."""
    body = await read_model(request, NewKey)
    made, key = await in_thread(add_another_key, registry.settings.tenants_dir, tenant, admin=body.admin)
    note(caller, f"makes key {made.id} of tenant {tenant}", "key_made", tenant=tenant, key=made.id)
    return json_answer(MadeKey(id=made.id, api_key=key), 201)


@router.delete(
    "/tenants/{tenant}/keys/{key}", status_code=204, responses=problems(403, 404, 409), dependencies=[NoQueryAllowed]
)
async def remove_key(registry: WiredRegistry, caller: Caller, tenant: TenantPath, key: KeyPath) -> Response:
    """Revoke a key. Requests with it are refused within a second; jobs submitted with it continue."""
    revoked = await in_thread(revoke_key, registry.settings.tenants_dir, tenant, key)
    note(caller, f"revokes key {revoked.id} of tenant {tenant}", "key_revoked", tenant=tenant, key=revoked.id)
    return Response(status_code=204)
