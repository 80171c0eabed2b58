"""`make soak` runs a steady load with short retention for a while: memory and disk must stay level."""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
from tests.faults.flat import Series, table
from tests.faults.measures import Measures, measures
from tests.faults.receiver import receiving
from tests.support.stack import StackHandle, running_stack

from enginehouse.registry.tenants import rotate_webhook_secret

ENGINE = "tests--echo"
SHORT_LIVED = {"result_ttl_seconds": 60, "max_time_in_queue_seconds": 60, "execution_timeout_seconds": 10}
LARGE_BYTES = 100_000
SAMPLE_SECONDS = 5.0
WARM_UP_SHARE, WARM_UP_LEAST_SECONDS = 0.4, 200.0
"""After about three minutes as much is let go of as comes in; caches and heaps settle a little later."""
ENVIRONMENT = {
    "ENGINEHOUSE_GATEWAY_ROWS_KEPT_SECONDS": "60",
    "ENGINEHOUSE_GATEWAY_RECORD_MARGIN_SECONDS": "30",
    "ENGINEHOUSE_GATEWAY_WEBHOOK_ALLOW_INSIDE": "true",
}


class Load:
    """About so many jobs a second, of every kind: small and large, waited for, followed, canceled, with a webhook."""

    def __init__(self, client: httpx2.AsyncClient, webhook: str, per_second: float) -> None:
        self._client = client
        self._webhook = webhook
        self._per_second = per_second
        self._random = random.Random(1)
        self.came_to: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Submit for that long; then let what is on its way end."""
        ends = time.monotonic() + seconds
        async with asyncio.TaskGroup() as jobs:
            while time.monotonic() < ends:
                jobs.create_task(self._one())
                await asyncio.sleep(self._random.expovariate(self._per_second))

    async def _one(self) -> None:
        kinds: list[Callable[[], Awaitable[str]]] = [
            self._waited,
            self._large,
            self._told,
            self._canceled,
            self._followed,
        ]
        (kind,) = self._random.choices(kinds, weights=[84, 4, 6, 3, 3])
        try:
            self.came_to[await kind()] += 1
        except httpx2.HTTPError as error:
            self.came_to[f"{type(error).__name__} {error}"] += 1

    async def _submit(self, value: Any, *, wait: bool = True, **options: Any) -> dict[str, Any]:
        headers = {"Prefer": "wait=15"} if wait else {}
        body = {"input": value, **SHORT_LIVED, **options}
        answer = await self._client.post(f"/v1/engines/{ENGINE}/jobs", json=body, headers=headers)
        answer.raise_for_status()
        job: dict[str, Any] = answer.json()
        return job

    async def _waited(self) -> str:
        return str((await self._submit({"text": "x" * 200}))["status"])

    async def _large(self) -> str:
        job = await self._submit("y" * LARGE_BYTES)
        output = await self._client.get(job["output_url"])
        return str(job["status"]) if len(output.content) == LARGE_BYTES + 2 else "a large output was cut"

    async def _told(self) -> str:
        return str((await self._submit("z", webhook=self._webhook))["status"])

    async def _canceled(self) -> str:
        job = await self._submit("c", wait=False)
        answer = await self._client.post(f"/v1/jobs/{job['id']}/cancel")
        return "canceled" if answer.status_code in (202, 409) else f"cancel: {answer.status_code}"

    async def _followed(self) -> str:
        job = await self._submit("f", wait=False)
        answer = await self._client.get(f"/v1/jobs/{job['id']}/events", timeout=30)
        return "succeeded" if "event: completed" in answer.text else "a stream without an end"


async def watch(looks: Measures, every: dict[str, Series], seconds: float) -> None:
    """Measure for that long."""
    began = time.monotonic()
    while (second := time.monotonic() - began) < seconds:
        await asyncio.to_thread(looks.trim_streams)
        for name, value in await asyncio.to_thread(lambda: list(looks.bytes_now())):
            every.setdefault(name, Series(name)).add(second, value)
        if len(every["disk of the ledger"].samples) % 12 == 1:
            shown = " · ".join(f"{key}: {series.samples[-1][1] / 2**20:.1f}" for key, series in every.items())
            print(f"{second / 60:5.1f} min  MiB  {shown}", flush=True)
        await asyncio.sleep(SAMPLE_SECONDS)


async def soak(stack: StackHandle, webhook: str, minutes: float, per_second: float) -> bool:
    """Load and look; whether everything stayed level and every job came to its end."""
    every: dict[str, Series] = {}
    authorization = {"Authorization": f"Bearer {stack.keys['tests']}"}
    async with httpx2.AsyncClient(base_url=stack.base_url, headers=authorization, timeout=20) as client:
        load = Load(client, webhook, per_second)
        with measures(stack) as looks:
            await asyncio.gather(load.run(minutes * 60), watch(looks, every, minutes * 60))
            restarted = looks.restarted()
    warm = max(WARM_UP_SHARE * minutes * 60, WARM_UP_LEAST_SECONDS)
    judged = [series.after(warm) for series in every.values()]
    print(
        f"\n{load.came_to.total()} jobs, {dict(load.came_to)}; judged from minute {warm / 60:.1f} on:\n\n{table(judged)}"
    )
    strange = [what for what in load.came_to if what not in ("succeeded", "canceled")]
    problems = [f"{series.name} grows" for series in judged if not series.is_flat]
    problems += [f"{name} was restarted" for name in restarted] + [f"jobs came to: {what}" for what in strange]
    print("\n".join(["", "What does not hold:", *problems]) if problems else "\nEverything stays level.")
    return not problems


def main() -> None:
    """Parse the arguments and run; exit status 1 if something grows."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--per-second", type=float, default=40, help="jobs submitted")
    asked = parser.parse_args()
    if asked.minutes * 60 < WARM_UP_LEAST_SECONDS + 60:
        parser.error(
            f"less than {(WARM_UP_LEAST_SECONDS + 60) / 60:.1f} minutes show nothing: warming up takes most of it"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="enginehouse-soak-"))
    engine = Path(__file__).resolve().parents[1] / "engines/echo"
    with ExitStack() as stops:
        receiver = stops.enter_context(receiving())
        stack = stops.enter_context(running_stack(folder / "home", [engine], env=ENVIRONMENT))
        receiver.secret = rotate_webhook_secret(stack.home.webhook_secrets, "tests")
        print(f"{asked.per_second:g} jobs a second for {asked.minutes:g} minutes, in {folder}", flush=True)
        level = asyncio.run(soak(stack, receiver.url, asked.minutes, asked.per_second))
    if level:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if level else 1)


if __name__ == "__main__":
    main()
