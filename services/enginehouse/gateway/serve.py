"""The process of a gateway: serves the public API, gRPC and the sidecar's listener in one event loop."""

import asyncio
import signal
import sys

import structlog
from pydantic import ValidationError

from enginehouse.background import Background
from enginehouse.contracts.base import explain_settings
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.gateway.app import create_delivery_app, create_gateway, running
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.http.api import create_api
from enginehouse.gateway.http.internal import create_internal_app
from enginehouse.gateway.rpc.server import RpcServer
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.logs import configure_logs
from enginehouse.serving import Server, run

log = structlog.get_logger()
_CLOSE_SECONDS = 10
_SWITCH_SECONDS = 0.001
"""How long another thread may compute while the event loop waits to go on. Python's own 5 ms, at each of the many steps of
a job, would add up to a quarter of a second while the ledger's threads read large pages."""


async def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the work in hand."""
    gateway = create_gateway(settings)
    rpc = RpcServer(gateway, settings.host, settings.grpc_port)
    app = create_api(gateway, rpc.within(running(gateway)))
    public = Server(app, settings.host, settings.port, close_seconds=_CLOSE_SECONDS, lifespan=True)
    app_for_sidecar = create_delivery_app(gateway)
    background = Background()
    deliveries = Server(app_for_sidecar, "127.0.0.1", settings.delivery_port, close_seconds=_CLOSE_SECONDS)

    def stop() -> None:
        public.should_exit = True
        # Both drain at the same time.
        background.start(rpc.stop())

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    if settings.listens_beyond_loopback:
        log.warning(f"The API listens on {settings.host}: put TLS in front of it", action="listens_beyond_loopback")

    async def deliver() -> None:
        # Deliveries need the ledger, which is open once the public API has begun.
        await public.begun.wait()
        if public.started:
            await deliveries.serve()

    delivering = asyncio.create_task(deliver())
    internal = _internal_listener(gateway, settings, public)
    if internal is not None:
        background.start(internal.serve())
    await public.serve()
    # The sidecar can deliver until the API has stopped, so that waiting callers still get their answers.
    deliveries.should_exit = True
    await delivering
    if internal is not None:
        internal.should_exit = True
        await background.close(_CLOSE_SECONDS)


def _internal_listener(gateway: Gateway, settings: GatewaySettings, public: Server) -> Server | None:
    """Return the listener inside a cluster, if there is to be one. It listens at once: a migration may take minutes."""
    if settings.internal_port is None:
        return None
    app = create_internal_app(gateway, lambda: public.started and not public.should_exit)
    return Server(app, settings.internal_host, settings.internal_port, close_seconds=_CLOSE_SECONDS)


def main() -> None:
    """Start a gateway from its environment."""
    try:
        settings = GatewaySettings()
        sys.setswitchinterval(_SWITCH_SECONDS)
        configure_logs(settings.log_level, as_json=settings.log_json)
        run(serve(settings))
    except ValidationError as error:
        sys.exit(f"gateway: settings are missing or wrong: {explain_settings(error, GatewaySettings)}")
    except EnginehouseError as error:
        sys.exit(f"gateway: {error}")
