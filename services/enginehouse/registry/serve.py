"""The process of a registry: serves its API in one event loop."""

import asyncio
import signal
import sys

import structlog
from pydantic import ValidationError

from enginehouse.contracts.base import explain_settings
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.logs import configure_logs
from enginehouse.registry.http.api import create_api
from enginehouse.registry.settings import RegistrySettings
from enginehouse.serving import Server, run

log = structlog.get_logger()
_CLOSE_SECONDS = 10


async def serve(settings: RegistrySettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the calls in hand."""
    server = Server(create_api(settings), settings.host, settings.port, close_seconds=_CLOSE_SECONDS, lifespan=True)

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    if settings.listens_beyond_loopback:
        log.warning(
            f"The registry listens on {settings.host}: put TLS in front of it", action="listens_beyond_loopback"
        )
    await server.serve()


def main() -> None:
    """Start a registry from its environment."""
    try:
        settings = RegistrySettings()
        configure_logs(settings.log_level, as_json=settings.log_json)
        run(serve(settings))
    except ValidationError as error:
        sys.exit(f"registry: settings are missing or wrong: {explain_settings(error, RegistrySettings)}")
    except EnginehouseError as error:
        sys.exit(f"registry: {error}")
