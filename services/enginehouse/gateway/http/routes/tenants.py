"""/v1/tenants: shows administrators what is left of a tenant that is being removed."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from enginehouse.gateway.http.dependencies import AdminCaller, WiredGateway
from enginehouse.gateway.recovery.removed_tenants import TenantData
from enginehouse.web.openapi import problems
from enginehouse.web.requests import NoQueryAllowed
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1", tags=["operations"])


@router.get("/tenants/{tenant}/data", response_model=TenantData, responses=problems(403), dependencies=[NoQueryAllowed])
async def tenant_data(
    gateway: WiredGateway, caller: AdminCaller, tenant: Annotated[str, Path(max_length=64)]
) -> Response:
    """Show what the gateway still keeps of a tenant. Nothing, once a removal is over."""
    return json_answer(await gateway.removed_tenants.left(tenant))
