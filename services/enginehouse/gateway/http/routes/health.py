"""Health and metrics: for orchestrators and operators."""

from typing import Any

import pydantic_core
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.gateway.http.dependencies import NoQueryAllowed, State

router = APIRouter(tags=["operations"])


@router.get("/healthz/live", dependencies=[NoQueryAllowed], responses={422: {}})
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@router.get("/healthz/ready", dependencies=[NoQueryAllowed], responses={422: {}, 503: {}})
async def ready(state: State) -> Response:
    """Jobs can be accepted: the ledger answers and the engines' list is known. The broker need not be there."""
    checks: dict[str, Any] = {"engines_loaded": state.engines.loaded.is_set()}
    try:
        await state.ledger.read(lambda connection: connection.execute(text("SELECT 1")).scalar())
        checks["ledger"] = True
    except EnginehouseError:
        checks["ledger"] = False
    return Response(
        pydantic_core.to_json({"ready": all(checks.values()), **checks}),
        200 if all(checks.values()) else 503,
        media_type="application/json",
    )


@router.get("/metrics", dependencies=[NoQueryAllowed], responses={200: {"content": {"text/plain": {}}}, 422: {}})
async def metrics() -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
