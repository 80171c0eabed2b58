"""The floor without HTTP: so many callers in one process, each with one job after the other; prints what they got."""

import asyncio
import json
import sys
import time

import uvloop
from bus import Bus


async def main(callers: int, seconds: float) -> None:
    bus, latencies = Bus(), []
    bus.start()
    data = json.dumps({"text": "hello"}).encode()
    end = time.perf_counter() + seconds

    async def call() -> None:
        while (begun := time.perf_counter()) < end:
            await bus.run(data)
            latencies.append(time.perf_counter() - begun)

    await asyncio.sleep(0.1)
    begun = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    took = time.perf_counter() - begun
    latencies.sort()
    print(
        json.dumps(
            {
                "per_second": len(latencies) / took,
                "p50_ms": 1000 * latencies[len(latencies) // 2],
                "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
            }
        )
    )
    await bus.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
