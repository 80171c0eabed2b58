"""/healthz and /metrics: show health and metrics to orchestrators and operators."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from enginehouse.gateway.http.dependencies import WiredGateway
from enginehouse.web.requests import NoQueryAllowed
from enginehouse.web.responses import json_answer

router = APIRouter(tags=["operations"])


@router.get("/healthz/live", dependencies=[NoQueryAllowed], responses={422: {}})
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "live"}


@router.get("/healthz/ready", dependencies=[NoQueryAllowed], responses={422: {}, 503: {}})
async def ready(gateway: WiredGateway) -> Response:
    """Say whether jobs can be accepted: the ledger answers and the engines are known. The broker may be away."""
    checks = await gateway.readiness()
    is_ready = all(checks.values())
    return json_answer({"ready": is_ready, **checks}, 200 if is_ready else 503)


@router.get("/metrics", dependencies=[NoQueryAllowed], responses={200: {"content": {"text/plain": {}}}, 422: {}})
async def metrics() -> Response:
    """Show metrics in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
