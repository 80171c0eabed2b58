"""/healthz: shows health to whoever runs the registry."""

from fastapi import APIRouter

from enginehouse.registry.http.dependencies import WiredRegistry
from enginehouse.web.requests import NoQueryAllowed

router = APIRouter(tags=["operations"])


@router.get("/healthz/live", dependencies=[NoQueryAllowed], responses={422: {}})
async def live(registry: WiredRegistry) -> dict[str, str]:
    """Say that the process answers; in a cluster also whether its deployer works. Its log and state file say what is wrong."""
    if registry.cluster is None:
        return {"status": "live"}
    return {"status": "live", "deployer": "has problems" if registry.cluster.problems else "works"}
