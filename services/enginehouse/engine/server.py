"""Serve an engine with uvicorn. The server listens at once and loads the engine meanwhile."""

import logging
import os
import sys

import uvicorn

from enginehouse.contracts.engine import ENGINE_PORT
from enginehouse.engine.app import EngineApp
from enginehouse.engine.base import Engine
from enginehouse.engine.host import EngineHost

EXIT_NOT_LOADED = 1


def serve(engine: type[Engine]) -> None:
    """Serve `engine` on $HOST (127.0.0.1) and $PORT (8000) until SIGTERM.

    Predictions in work are finished before the end.

    If `load` raises, the process exits with a non-zero code, and the reason is the last line of its log.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    loaded = True

    def give_up() -> None:
        nonlocal loaded
        loaded = False
        # What uvicorn says while it stops would stand below the reason, where only the last lines are shown.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        server.should_exit = True

    app = EngineApp(EngineHost(engine, on_load_failure=give_up))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=os.environ.get("HOST") or "127.0.0.1",
            port=int(os.environ.get("PORT") or ENGINE_PORT),
            log_config=None,
            access_log=False,
            ws="none",
            server_header=False,
            date_header=False,
        )
    )
    server.run()
    if not loaded:
        sys.exit(EXIT_NOT_LOADED)
