"""The floor's worker: reads jobs in a consumer group, replies, acknowledges; as many in hand as the echo engine's slots."""

import asyncio
import json

import redis.asyncio
import uvloop
from bus import GROUP, JOBS, KEEP, REPLIES, connect

SLOTS = 32


async def work(client: redis.asyncio.Redis, entry: bytes, job: dict[bytes, bytes]) -> None:
    data = json.dumps(json.loads(job[b"data"])).encode()
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.xadd(REPLIES, {"id": job[b"id"], "data": data}, maxlen=KEEP, approximate=True)
        pipeline.xack(JOBS, GROUP, entry)
        await pipeline.execute()


async def main() -> None:
    client = connect()
    await client.xgroup_create(JOBS, GROUP, id="0", mkstream=True)
    running: set[asyncio.Task[None]] = set()
    while True:
        found = await client.xreadgroup(GROUP, "worker", {JOBS: ">"}, count=SLOTS - len(running), block=1_000)
        for _, entries in found:
            running |= {asyncio.create_task(work(client, entry, job)) for entry, job in entries}
        while len(running) >= SLOTS:
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        running = {task for task in running if not task.done()}


if __name__ == "__main__":
    uvloop.run(main())
