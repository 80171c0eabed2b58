"""Builds the public API as one ASGI app: the routes, behind the front and the fast way for submits."""

from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from enginehouse import __version__
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.http.fast_submit import FastSubmit
from enginehouse.gateway.http.open_inference_errors import open_inference_error
from enginehouse.gateway.http.routes import (
    audit,
    broadcasts,
    calls,
    dead_letters,
    engine_docs,
    engines,
    events,
    health,
    jobs,
    objects,
    open_inference,
    quarantines,
    tenants,
)
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.web import docs_page, problems
from enginehouse.web.audited import audited
from enginehouse.web.front import HeadersWithinBounds, RequestId
from enginehouse.web.openapi import add_answered_headers


class _Api(FastAPI):
    """Puts FastAPI behind cheap layers of our own: its own layers cost more than all other work of a submit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._front = RequestId(HeadersWithinBounds(FastSubmit(super().__call__, self)))

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, with the headers of all answers."""
        if not self.openapi_schema:
            add_answered_headers(super().openapi())
        return self.openapi_schema or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._front(scope, receive, send)
            return
        scope["app"] = self  # The layers of our own answer errors before the framework says so.
        gateway: Gateway = self.state.gateway
        caller = _caller(gateway, scope)
        state = scope.setdefault("state", {})
        with audited(gateway.audit, scope) as call, ExitStack() as until_answered:
            state.update(until_answered=until_answered, caller=caller)
            if caller:
                call.by, call.key, call.is_operator = caller.name, caller.key_id, caller.is_admin
            # Somebody without a key is known by the address.
            sender = caller.name if caller else scope["client"][0] if scope["client"] else ""
            await gateway.loop_time.share(sender, self._front(scope, receive, send))


def _caller(gateway: Gateway, scope: Scope) -> Caller | None:
    """Return the caller whose key the request has. The routes that need one refuse the request without."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return gateway.tenants.find(value.decode("latin-1"))
    return None


def create_api(gateway: Gateway, running: AbstractAsyncContextManager[None]) -> FastAPI:
    """Build the public API of `gateway`, which runs as long as `running` is entered."""

    def lifespan(_: FastAPI) -> AbstractAsyncContextManager[None]:
        return running

    api = _Api(
        title="Enginehouse",
        version=__version__,
        summary="Many clients' inference engines behind one API.",
        lifespan=lifespan,
        # `web/docs_page.py` serves both: FastAPI writes the document anew for each request, and its page loads its
        # script from another host.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A path with an extra slash is not found: a redirect would lead to any address that the Host header names.
        redirect_slashes=False,
    )
    api.state.gateway = gateway
    problems.install(api, {"/v2/": open_inference_error})
    for module in (
        jobs,
        events,
        objects,
        dead_letters,
        engine_docs,
        broadcasts,
        engines,
        calls,
        open_inference,
        tenants,
        quarantines,
        audit,
        health,
        docs_page,
    ):
        api.include_router(module.router)
    return api
