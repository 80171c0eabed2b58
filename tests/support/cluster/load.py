"""A steady load from inside the cluster. It is sent to a pod and runs there, so it imports nothing of the tests.

    python - URL ENGINE JOBS PER_SECOND NAP_SECONDS PATIENCE_SECONDS   (the API key in ENGINEHOUSE_API_KEY)

Submits jobs of an engine that sleeps, waits for the end of each, and prints one line of JSON: how many were accepted, how
they ended, and how long from the submit to the first answer.
"""

import asyncio
import json
import sys
import time
import uuid
from collections import Counter

from enginehouse.client import AsyncClient
from enginehouse.client.retries import RetryPlan
from enginehouse.contracts.errors import EnginehouseError

_AT_ONCE = 100


async def main() -> None:
    url, engine = sys.argv[1:3]
    jobs, per_second, nap, patience = map(float, sys.argv[3:])
    begun, places = time.monotonic(), asyncio.Semaphore(_AT_ONCE)
    first: list[float] = []
    ends, errors, attempts = Counter[str](), Counter[str](), Counter[str]()
    # As patient as a client that must get its jobs in: gateways are replaced while it submits.
    async with AsyncClient(url, retries=RetryPlan(times=30)) as client:

        async def one(number: int) -> None:
            await asyncio.sleep(number / per_second)
            async with places:
                try:
                    job = await client.submit(engine, {"seconds": nap}, idempotency_key=str(uuid.uuid4()))
                except EnginehouseError as refused:
                    errors[type(refused).__name__] += 1
                    return
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                try:
                    found = await job.wait(min(20.0, max(0.1, deadline - time.monotonic())))
                except EnginehouseError as away:
                    errors[f"while waiting: {type(away).__name__}"] += 1
                    await asyncio.sleep(0.5)
                    continue
                ends[found.status.value] += 1
                attempts[str(found.attempts)] += 1
                first.append(time.monotonic() - begun)
                return
            ends["unfinished"] += 1

        await asyncio.gather(*(one(number) for number in range(int(jobs))))
    first.sort()
    print(
        json.dumps(
            {
                "ends": dict(ends),
                "errors": dict(errors),
                "attempts": dict(attempts),
                "first_seconds": first[0] if first else None,
                "seconds": time.monotonic() - begun,
            }
        )
    )


asyncio.run(main())
