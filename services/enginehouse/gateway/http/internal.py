"""What a gateway shows inside its cluster, without keys: how many jobs each engine has for a scaler, health and metrics."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from enginehouse.contracts.errors import EnginehouseError, NotFound, Unavailable
from enginehouse.gateway.gateway import Gateway


def create_internal_app(gateway: Gateway, is_open: Callable[[], bool]) -> Starlette:
    """Build the listener that only a cluster's own parts reach. Until `is_open`, the gateway lives and is not ready."""

    async def scaling(request: Request) -> Response:
        try:
            if not is_open():
                raise Unavailable("the gateway is starting")
            number = await gateway.unfinished.of(request.path_params["engine_id"])
        except EnginehouseError as error:
            # Whoever scales must not take "nobody knows" for "none".
            status = 404 if isinstance(error, NotFound) else 503
            return JSONResponse({"code": error.code, "detail": str(error)}, status)
        return JSONResponse({"unfinished_jobs": number})

    async def live(request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(request: Request) -> Response:
        checks = await gateway.readiness() if is_open() else {}
        is_ready = bool(checks) and all(checks.values())
        return JSONResponse({"ready": is_ready, **checks}, 200 if is_ready else 503)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    app = Starlette(
        routes=[
            Route("/scaling/{engine_id}", scaling),
            Route("/healthz/live", live),
            Route("/healthz/ready", ready),
            Route("/metrics", metrics),
        ]
    )
    app.router.redirect_slashes = False
    return app
