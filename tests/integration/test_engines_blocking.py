"""A runner before real engines that block: what they hold up, what their jobs are told, and what is restarted."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine_process import engine_processes, read_spec
from tests.support.runner import World, begin, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts.job import Status
from enginehouse.contracts.names import new_job_id

CLOCK_SECONDS = 1.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    with engine_processes(tmp_path) as start_one:
        yield start_one


@asynccontextmanager
async def runner_of(start: Any, folder: str, tmp_path: Path, **settings: Any) -> AsyncIterator[World]:
    """Start an engine and a runner before it."""
    engine, spec = start(folder), read_spec(folder)
    await asyncio.to_thread(engine.wait_until_healthy)
    async with runner_world(
        tmp_path,
        engine_urls=[engine.url],
        concurrency=spec.concurrency,
        execution_timeout_seconds=spec.execution_timeout_seconds,
        **settings,
    ) as world:
        yield world


def slow(world: World, count: int, seconds: float, clock: float) -> tuple[list[str], list["asyncio.Task[bool]"]]:
    """Begin jobs that block for that time and are given `clock` seconds."""
    ids = [new_job_id() for _ in range(count)]
    return ids, [begin(world, job_id, data={"seconds": seconds}, seconds=clock) for job_id in ids]


async def test_slow_jobs_that_outlive_their_clock_hold_up_the_next_for_one_clock_and_restart_nothing(
    start: Any, tmp_path: Path
) -> None:
    async with runner_of(start, "blocks", tmp_path, restart_after_seconds=30) as world:
        (replica,) = world.runner.pool.replicas
        ids, deliveries = slow(world, 8, seconds=8, clock=CLOCK_SECONDS)
        await until_async(lambda: replica.places_taken == 8)
        began = time.monotonic()
        record = await world.run({"seconds": 0.01}, seconds=CLOCK_SECONDS)
        waited = time.monotonic() - began
        assert (record.status, record.attempt) == (Status.SUCCEEDED, 1)
        assert waited < CLOCK_SECONDS + 3, "the eight go on for eight seconds"
        assert all(await asyncio.gather(*deliveries))
        assert {world.record(job_id).status for job_id in ids} == {Status.TIMED_OUT}
        await until_async(lambda: replica.places_taken == 0)
        assert not replica.restarting


async def test_jobs_that_wait_for_a_blocked_event_loop_are_told_so(start: Any, tmp_path: Path) -> None:
    async with runner_of(start, "blocks_loop", tmp_path) as world:
        ids, deliveries = slow(world, 4, seconds=1.6, clock=4)
        await asyncio.gather(*deliveries)
        records = [world.record(job_id) for job_id in ids]
        assert [record.status for record in records].count(Status.SUCCEEDED) == 2
        late = [record.error.message for record in records if record.error]
        assert len(late) == 2
        for message in late:
            assert "the job waited 3." in message
            assert "behind other jobs: predict is `async` but blocks the event loop" in message
            assert "engine.py:21); make it a plain `def`, or await" in message
        await world.runner.heartbeats.beat()
        assert "predict is `async` but blocks" in str(world.runner.pool.warning)
