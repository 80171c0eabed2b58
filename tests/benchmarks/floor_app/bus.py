"""The floor: a job and its reply as entries of two Redis streams, and nothing else. No ledger, no record, no promise."""

import asyncio
import itertools
import os
from typing import Any

import redis.asyncio

JOBS, REPLIES, GROUP = "jobs", "replies", "workers"
KEEP = 10_000
"""Entries that a stream keeps: more than ever wait."""


def connect() -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(os.environ["BASELINE_REDIS_URL"], max_connections=1_000)


class Bus:
    """Publishes jobs, and wakes who waits for a reply."""

    def __init__(self) -> None:
        self._redis = connect()
        self._ids = itertools.count()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        if self._reader:
            self._reader.cancel()
        await self._redis.aclose()

    async def publish(self, data: bytes) -> bytes:
        job = b"%d" % next(self._ids)
        await self._redis.xadd(JOBS, {"id": job, "data": data}, maxlen=KEEP, approximate=True)
        return job

    async def run(self, data: bytes) -> bytes:
        job = b"%d" % next(self._ids)
        future = self._waiting[job] = asyncio.get_running_loop().create_future()
        try:
            await self._redis.xadd(JOBS, {"id": job, "data": data}, maxlen=KEEP, approximate=True)
            return await future
        finally:
            del self._waiting[job]

    async def _read(self) -> None:
        last: Any = "$"
        while True:
            for _, entries in await self._redis.xread({REPLIES: last}, count=100, block=1_000):
                for last, reply in entries:  # noqa: B007 - where the next read goes on
                    future = self._waiting.get(reply[b"id"])
                    if future and not future.done():
                        future.set_result(reply[b"data"])
