"""Takes submits and infer requests around the framework's routing: the same function answers, at a third of the cost.

Decision, 2026-11-22: almost all requests are submits, and FastAPI's routing, dependencies and middleware took most of
a submit's time. Well-formed submits go straight from ASGI to `submit_job`. All other requests, also those with a
malformed engine name, take the documented routes. A caller cannot see a difference.
"""

import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.gateway.http.dependencies import caller_of, gateway_of
from enginehouse.gateway.http.routes.jobs import submit_job
from enginehouse.gateway.http.routes.open_inference import infer
from enginehouse.web.problems import problem, unexpected

_INFER = re.compile(r"/v2/models/([a-z0-9-]{1,64})/infer")
_SUBMIT = re.compile(r"/v1/(?:jobs|engines/([a-z0-9-]{1,64})/jobs)")


class FastSubmit:
    """Answers submits, and passes every other request on to `app`."""

    def __init__(self, app: ASGIApp, routes: FastAPI) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        answer: Callable[[Request], Awaitable[Response]] | None = None
        if scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]:
            answer = self._answer_to(scope)
        if answer is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._routes
        response = await self._answered(Request(scope, receive), answer)
        if response is not None:
            await response(scope, receive, send)

    @staticmethod
    def _answer_to(scope: Scope) -> Callable[[Request], Awaitable[Response]] | None:
        """Return the function that answers a POST to this path, if this is one of the ways around; note its route."""
        path: str = scope["path"]
        if submit := _SUBMIT.fullmatch(path):
            engine = submit[1]
            scope["state"]["route"] = "/v1/engines/{engine}/jobs" if engine else path
            scope["path_params"] = {"engine": engine}

            async def answer_submit(request: Request) -> Response:
                return await submit_job(request, gateway_of(request), await caller_of(request), engine)

            return answer_submit
        if asked := _INFER.fullmatch(path):
            model = asked[1]
            scope["state"]["route"] = "/v2/models/{model}/infer"
            scope["path_params"] = {"model": model}

            async def answer_infer(request: Request) -> Response:
                return await infer(request, gateway_of(request), await caller_of(request), model)

            return answer_infer
        return None

    @staticmethod
    async def _answered(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response | None:
        try:
            return await answer(request)
        except EnginehouseError as error:
            return problem(error, scope=request.scope)
        except ClientDisconnect:
            return None
        except Exception:
            return unexpected(request)
