"""Asking processes whether they are well."""

import asyncio
import contextlib

import httpx2

from enginehouse.local import redis
from enginehouse.local.processes import Health
from enginehouse.local.redis import RedisAddress


class Prober:
    """One HTTP client for all health checks on this machine; never through a proxy."""

    def __init__(self) -> None:
        self._client = httpx2.AsyncClient(timeout=2, trust_env=False)

    async def ok(self, url: str) -> bool:
        """Whether GET `url` answers 2xx in time."""
        try:
            return (await self._client.get(url)).is_success
        except httpx2.HTTPError:
            return False

    def http(self, url: str) -> Health:
        """A health check that asks `url`."""
        return lambda: self.ok(url)

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.aclose()


def redis_health(address: RedisAddress) -> Health:
    """A health check of Redis: up, data loaded, password taken."""
    return lambda: asyncio.to_thread(redis.answers, address)


async def listens(port: int) -> bool:
    """Whether something accepts connections on 127.0.0.1:`port`."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 2)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
