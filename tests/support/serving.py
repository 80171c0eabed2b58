"""Serve an ASGI app in a thread, so that a sidecar shared by many tests has the same app during all of them."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn


@contextlib.contextmanager
def serving(app: Any, port: int) -> Iterator[None]:
    """Serve `app` at 127.0.0.1:`port` during the block. It listens when the block begins."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="off"))
    started = threading.Event()

    async def run() -> None:
        config = server.config
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        started.set()
        await server.main_loop()
        await server.shutdown()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name=f"app at {port}")
    thread.start()
    try:
        assert started.wait(10), f"nothing listens at {port}"
        yield
    finally:
        server.should_exit = True
        thread.join(15)
