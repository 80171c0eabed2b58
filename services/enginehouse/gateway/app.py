"""Wires a gateway together: once, at start, never at import."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import uuid_utils
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enginehouse import __version__
from enginehouse.gateway.engines.catalogue import Engines
from enginehouse.gateway.engines.transitions import States
from enginehouse.gateway.gateway import GatewayState
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.http import problems
from enginehouse.gateway.http.fast_submit import HotSubmit
from enginehouse.gateway.http.front import HeadersWithinBounds
from enginehouse.gateway.http.routes import dead_letters as dead_letter_routes
from enginehouse.gateway.http.routes import engines, events, health, jobs
from enginehouse.gateway.http.routes import objects as object_routes
from enginehouse.gateway.intake.cloud_events import EventIntake
from enginehouse.gateway.intake.submit import Submitter
from enginehouse.gateway.jobs.jobs import Jobs
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.notify.webhooks import Secrets, Webhooks
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.outcome import dead_letters
from enginehouse.gateway.outcome.completions import Completions
from enginehouse.gateway.outcome.restored_store import Restore
from enginehouse.gateway.outcome.waiters import Waiters
from enginehouse.gateway.recovery.sweep import Sweep
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.gateway.tenants.limits import Limits
from enginehouse.gateway.tenants.tenants import Tenants
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.dapr import DaprSidecar
from enginehouse.sidecar.delivery import DeliveryApp, delivery_app

log = structlog.get_logger()

_ENGINES_POLL_SECONDS = 1.0
_AGAIN_SECONDS = 1.0


def wire(settings: GatewaySettings, sidecar: Sidecar) -> GatewayState:
    """Put the parts together; nothing runs yet."""
    ledger = Ledger(settings.ledger_url.get_secret_value())
    found = Engines(
        sidecar,
        ledger,
        window_min=settings.window_min,
        window_factor=settings.window_factor,
        bundles=settings.engines_dir,
    )
    objects = _objects(settings)
    tenants = Tenants(settings.tenants_dir)
    dispatcher = Dispatcher(sidecar, ledger, found, objects, record_margin_seconds=settings.record_margin_seconds)
    webhooks = Webhooks(Secrets(settings.webhook_secrets_dir), allow_inside=settings.webhook_allow_inside)
    waiters, notifier, limits = Waiters(), Notifier(sidecar, ledger, webhooks), Limits()
    states = States(sidecar, found, notifier, tenants)
    restore = Restore(sidecar, ledger, found, dispatcher)
    completions = Completions(sidecar, ledger, found, states, dispatcher, waiters, notifier, limits, restore)
    submitter = Submitter(
        ledger,
        found,
        dispatcher,
        completions,
        limits=limits,
        webhooks=webhooks,
        objects=objects,
        inline_max_bytes=settings.inline_max_bytes,
    )
    return GatewayState(
        settings=settings,
        sidecar=sidecar,
        ledger=ledger,
        tenants=tenants,
        engines=found,
        states=states,
        dispatcher=dispatcher,
        completions=completions,
        sweep=Sweep(
            sidecar,
            ledger,
            found,
            states,
            dispatcher,
            completions,
            objects,
            limits,
            restore,
            rows_kept_seconds=settings.rows_kept_seconds,
        ),
        jobs=Jobs(sidecar, ledger, found, dispatcher, submitter, completions, waiters, objects),
        objects=objects,
        notifier=notifier,
        webhooks=webhooks,
        events=EventIntake(submitter, tenants, notifier),
    )


def _objects(settings: GatewaySettings) -> Objects | None:
    if settings.objects_url is None:
        return None
    public_url = settings.public_url or f"http://{settings.host}:{settings.port}"
    return Objects(settings.objects_url.get_secret_value(), public_url, max_bytes=settings.object_max_bytes)


async def _forever(name: str, make: Callable[[], Awaitable[None]]) -> None:
    """Await what `make` gives until that ends by itself; if it fails, say so and start it again."""
    while True:
        try:
            return await make()
        except Exception:
            log.exception(f"The task {name} failed and is started again", action="task_failed", task=name)
        await asyncio.sleep(_AGAIN_SECONDS)


@asynccontextmanager
async def running(state: GatewayState) -> AsyncIterator[None]:
    """Open the ledger and keep everything going; at the end, finish what is in hand."""
    await state.ledger.open()
    await state.engines.restore()
    stop = asyncio.Event()

    async def with_sidecar() -> None:
        # Jobs are accepted while the sidecar is still away: they wait in the ledger.
        await state.sidecar.start(timeout_seconds=1e9)
        await asyncio.gather(
            _forever("engines", lambda: state.engines.run(_ENGINES_POLL_SECONDS)),
            _forever("sweep", lambda: state.sweep.run(state.settings.sweep_seconds)),
            _forever("notifier", state.notifier.run),
            _forever("listener", state.completions.listen_to_others),
        )

    tasks = [
        asyncio.create_task(_forever("sidecar", with_sidecar)),
        asyncio.create_task(_forever("tenants", lambda: state.tenants.watch(stop))),
    ]
    try:
        yield
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await state.completions.close()
        await state.dispatcher.close()
        await state.ledger.close()
        await state.webhooks.close()
        await state.sidecar.close()


_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class _RequestId:
    """Gives every answer an X-Request-Id: the caller's own, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid_utils.uuid7()).encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, with_id)


class _Api(FastAPI):
    """The routes, behind what every request passes first: outside of the framework, whose layers a submit goes around."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._front = _RequestId(HeadersWithinBounds(HotSubmit(super().__call__, self)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._front(scope, receive, send)


def create_app(settings: GatewaySettings, sidecar: Sidecar | None = None) -> FastAPI:
    """The public API. `sidecar` replaces the real one in tests."""
    state = wire(settings, sidecar or DaprSidecar(settings.dapr_http_port, settings.dapr_api_token.get_secret_value()))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(state):
            yield

    app = _Api(
        title="Enginehouse",
        version=__version__,
        summary="Many clients' inference engines behind one API.",
        lifespan=lifespan,
        redoc_url=None,
        # A path with a slash too many is not found, rather than sent on to wherever its Host header says.
        redirect_slashes=False,
    )
    app.state.gateway = state
    problems.install(app)
    for module in (jobs, events, object_routes, dead_letter_routes, engines, health):
        app.include_router(module.router)
    return app


def create_delivery_app(state: GatewayState) -> DeliveryApp:
    """The loopback listener for the gateway's own sidecar."""
    return delivery_app(
        {
            "/completions": state.completions.deliver,
            "/dead-letters": dead_letters.receiver(state.ledger),
            "/requests/{tenant}": state.events.deliver,
        },
        state.settings.app_api_token.get_secret_value(),
        healthy=lambda: True,
    )
