"""Ask processes whether they are healthy."""

import asyncio
import contextlib
import ssl

import httpx2

from enginehouse.broker import redis
from enginehouse.broker.redis import RedisAddress
from enginehouse.local.processes import HealthCheck


def plain_http(timeout_seconds: float) -> httpx2.AsyncClient:
    """Return a client for plain HTTP on this machine: without a proxy, and without the certificates of authorities.

    Those take a twentieth of a second of the processor to load. HTTPS to anywhere fails.
    """
    return httpx2.AsyncClient(timeout=timeout_seconds, trust_env=False, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


class Prober:
    """One HTTP client for all health checks on this machine. It never uses a proxy."""

    def __init__(self) -> None:
        self._client = plain_http(2)

    async def ok(self, url: str) -> bool:
        """Return whether GET `url` answers 2xx in time."""
        try:
            return (await self._client.get(url)).is_success
        except httpx2.HTTPError:
            return False

    async def fault(self, url: str) -> str | None:
        """Return the text with which GET `url` answers 503; None for any other answer, or none in time."""
        try:
            answer = await self._client.get(url)
        except httpx2.HTTPError:
            return None
        return answer.text if answer.status_code == 503 else None

    def http(self, url: str) -> HealthCheck:
        """Return a health check that asks `url`."""
        return lambda: self.ok(url)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def redis_health(address: RedisAddress) -> HealthCheck:
    """Return a health check of Redis: it is up, has loaded its data and accepts the password."""
    return lambda: asyncio.to_thread(redis.answers, address)


async def listens(port: int) -> bool:
    """Return whether something accepts connections on 127.0.0.1:`port`."""
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
