"""The pages of a runner that need no token: whether it lives, what is wrong with its engine, whether that is fit, metrics."""

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from enginehouse.contracts.names import RUNNER_ENGINE_ROUTE, RUNNER_FIT_ROUTE


def pages(metrics: Callable[[], bytes], problem: Callable[[], str | None]) -> list[BaseRoute]:
    """Return the pages that also the sidecar's listener has. `problem` says what is wrong with the engine."""

    async def live(request: Request) -> Response:
        return PlainTextResponse("alive")

    async def engine(request: Request) -> Response:
        return _verdict(problem(), "nothing is wrong")

    async def show_metrics(request: Request) -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4")

    return [Route("/healthz/live", live), Route(RUNNER_ENGINE_ROUTE, engine), Route("/metrics", show_metrics)]


def health_app(shared: Sequence[BaseRoute], misfit: Callable[[], str | None]) -> Starlette:
    """Return what is served on all addresses: the shared pages and, by what `misfit` says, whether the version is fit."""

    async def fit(request: Request) -> Response:
        return _verdict(misfit(), "it is fit to serve")

    return Starlette(routes=[*shared, Route(RUNNER_FIT_ROUTE, fit)])


def _verdict(fault: str | None, well: str) -> Response:
    return PlainTextResponse(fault or well, status_code=503 if fault else 200)
