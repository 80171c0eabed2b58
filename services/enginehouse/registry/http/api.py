"""Builds the registry's API as one ASGI app."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from enginehouse import __version__
from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.checkers import Checkers
from enginehouse.registry.http.dependencies import Registry
from enginehouse.registry.http.routes import engines, health, images, secrets, tenants
from enginehouse.registry.settings import RegistrySettings
from enginehouse.web import docs_page, problems
from enginehouse.web.audited import audited
from enginehouse.web.front import HeadersWithinBounds, RequestId
from enginehouse.web.openapi import add_answered_headers

_UNPACKED_AT_ONCE = 2
_DEPLOYERS = 32
"""Most calls that wait at the same time until others have deployed; further ones wait for those."""
_UNPACK_SECONDS = 600.0
"""Longest time until an upload is unpacked, with the wait for its turn."""


class _Api(FastAPI):
    """Puts FastAPI behind the layers that every API of ours has."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._front = RequestId(HeadersWithinBounds(super().__call__))

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, with the headers of all answers."""
        if not self.openapi_schema:
            add_answered_headers(super().openapi())
        return self.openapi_schema or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._front(scope, receive, send)
            return
        scope.setdefault("state", {})
        with audited(self.state.audit, scope):
            await self._front(scope, receive, send)


def create_api(settings: RegistrySettings) -> FastAPI:
    """Build the API of a registry. Nothing is read or written before it starts."""

    audit = AuditLog(settings.audit_dir, "registry", max_bytes=settings.audit_max_bytes)
    deployers = ThreadPoolExecutor(_DEPLOYERS, "deployer")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # What a registry that was killed has left.
        shutil.rmtree(settings.work_dir, ignore_errors=True)
        background = Background()
        background.keep("audit", audit.run)
        try:
            if settings.cluster:
                from enginehouse.registry.deployer.start import keep_deployer  # Needs the extra `kubernetes`.

                api.state.registry = replace(api.state.registry, cluster=keep_deployer(settings, audit, background))
            yield
        finally:
            deployers.shutdown(wait=False, cancel_futures=True)
            await background.close()
            await audit.close()

    api = _Api(
        title="Enginehouse registry",
        version=__version__,
        summary="Deploys engines, and keeps the list of tenants.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    checkers = Checkers(_UNPACKED_AT_ONCE, wait_seconds=_UNPACK_SECONDS)
    api.state.registry = Registry(settings, checkers, asyncio.Semaphore(_UNPACKED_AT_ONCE), deployers)
    api.state.audit = audit
    problems.install(api)
    for module in (engines, secrets, images, tenants, health, docs_page):
        api.include_router(module.router)
    return api
