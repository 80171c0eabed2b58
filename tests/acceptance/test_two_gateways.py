"""Several gateways over one PostgreSQL are one gateway to their callers: any of them answers for every job."""

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults.kept import KeptApp, second_gateway
from tests.support.dapr import start_redis
from tests.support.postgres import postgres_server
from tests.support.stack import StackHandle, running_stack, until

from enginehouse.client import AsyncClient, Client

_ENGINES = Path(__file__).resolve().parents[1] / "engines"
TENANT = "tests"
AT_ONCE_SECONDS = 10
"""Much less than the waits asked for: who is not woken comes later."""


@dataclass(frozen=True)
class Pair:
    """A stack and its second gateway."""

    stack: StackHandle
    second: KeptApp

    @property
    def urls(self) -> tuple[str, str]:
        """Of both."""
        return self.stack.base_url, self.second.url

    def clients(self) -> tuple[AsyncClient, AsyncClient]:
        """A caller of each."""
        first, second = (AsyncClient(url, self.stack.keys[TENANT]) for url in self.urls)
        return first, second


def _knows_the_engine(url: str, key: str) -> bool:
    with Client(url, key) as client:
        return bool(client.engines())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("two")
    redis = start_redis(folder)
    with postgres_server() as postgres:
        env = {
            "REDIS_URL": f"redis://:{redis.address.password}@127.0.0.1:{redis.address.port}",
            "ENGINEHOUSE_GATEWAY_LEDGER_URL": postgres.url,
        }
        with (
            running_stack(folder / "home", [_ENGINES / "sleeps"], env=env) as stack,
            second_gateway(stack, env) as second,
        ):
            until(lambda: _knows_the_engine(second.url, stack.keys[TENANT]), "the second gateway knows the engine")
            yield Pair(stack, second)
    redis.stop()


async def test_who_waits_at_one_is_woken_when_the_other_reads_the_completion(pair: Pair) -> None:
    first, second = pair.clients()
    async with first, second:

        async def through_both(number: int) -> None:
            accepts, answers = (first, second) if number % 2 else (second, first)
            # Long enough for the wait to begin before the end.
            submitted = await accepts.submit("sleeps", {"seconds": 0.5 + number / 100})
            ended = await answers.wait(submitted.id, timeout_seconds=60)
            assert (ended.status, ended.attempts) == ("succeeded", 1)

        began = time.monotonic()
        await asyncio.gather(*(through_both(number) for number in range(16)))
        assert time.monotonic() - began < AT_ONCE_SECONDS
        for client in (first, second):
            assert [job.status async for job in client.jobs(engine="sleeps")] == ["succeeded"] * 16


async def test_jobs_go_on_through_one_while_the_other_is_gone(pair: Pair) -> None:
    first, second = pair.clients()
    async with first, second:
        jobs = [await second.submit("sleeps", {"seconds": 0.2}) for _ in range(8)]
        assert pair.second.app.started
        pid = pair.second.app.started.pid
        pair.second.app.signal(signal.SIGKILL)
        ended = await asyncio.gather(*(first.wait(job.id, timeout_seconds=60) for job in jobs))
        assert [job.status for job in ended] == ["succeeded"] * 8
        until(lambda: pair.second.app.started and pair.second.app.started.pid != pid, "it is started again")
        pair.second.app.until_ready(f"{pair.second.url}/healthz/ready")
        assert (await second.job(jobs[0].id)).status == "succeeded"
