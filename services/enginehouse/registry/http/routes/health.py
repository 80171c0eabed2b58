"""/healthz: shows health to whoever runs the registry."""

from fastapi import APIRouter

from enginehouse.web.requests import NoQueryAllowed

router = APIRouter(tags=["operations"])


@router.get("/healthz/live", dependencies=[NoQueryAllowed], responses={422: {}})
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "live"}
