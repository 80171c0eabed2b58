"""Small engines for unit tests, and a way to run one behind its real ASGI app."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx2
from pydantic import BaseModel, Field

from enginehouse.engine import Engine
from enginehouse.engine.app import EngineApp
from enginehouse.engine.host import EngineHost, HostPace


@asynccontextmanager
async def running(
    engine: type[Engine],
    load: bool = True,
    pace: HostPace = HostPace(),  # noqa: B008
) -> AsyncIterator[tuple[httpx2.AsyncClient, EngineHost]]:
    """Run an engine behind its real ASGI app during the block. Give a client of it and its host."""
    host = EngineHost(engine, pace=pace)
    if load:
        await host.load()
        assert host.ready
    transport = httpx2.ASGITransport(app=EngineApp(host))
    async with httpx2.AsyncClient(transport=transport, base_url="http://engine") as client:
        yield client, host
    host.close()


class Point(BaseModel):
    """An input with a bound."""

    x: Annotated[float, Field(ge=0)]
    label: str | None = None


class Options(BaseModel):
    """Parameters of an engine."""

    times: int = 1


class Anything(Engine):
    """Answers its input."""

    def predict(self, data: Any) -> Any:
        """Answer the input."""
        return data
