"""Jobs that wait too long expire and do not run. Jobs that run do not expire, and no engine holds up another."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, STANDARD, Clock, GatewayWorld, gateway_world, impatient, sweep_in
from tests.support.scripted_runner import ScriptedRunner, lose, never, succeed

from enginehouse.contracts import names
from enginehouse.contracts.job import Status
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=impatient(clock)) as made:
        yield made


async def test_a_job_whose_queue_clock_is_over_expires_and_does_not_run(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = lose
    job_id = await world.submit(max_time_in_queue_seconds=10)
    event = await world.delivered(job_id)
    await sweep_in(world, clock, 9)
    assert (await world.job(job_id))["status"] == "queued"
    waiting = asyncio.create_task(world.job(job_id, wait=30))
    await asyncio.sleep(0.01)
    await sweep_in(world, clock, 2)
    job = await asyncio.wait_for(waiting, 20)
    assert (job["status"], job["error"]["code"]) == ("expired", "EXPIRED")
    assert "10" in job["error"]["message"]
    await succeed(world.runner, event)
    assert (await world.job(job_id))["status"] == "expired"


async def test_a_job_that_runs_does_not_expire(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = never
    job_id = await world.submit(max_time_in_queue_seconds=10)
    await world.until_status(job_id, Status.RUNNING)
    await sweep_in(world, clock, 1_000)
    assert (await world.job(job_id))["status"] == "running"


async def test_a_job_whose_worker_vanished_expires_when_it_is_too_late_to_run_it_again(
    world: GatewayWorld, clock: Clock
) -> None:
    world.runner.answer = never
    job_id = await world.submit(max_time_in_queue_seconds=10)
    await world.until_status(job_id, Status.RUNNING)
    await world.aged(job_id, 60)
    await world.change(job_id, queue_deadline=time.time() - 1)
    other = ScriptedRunner(FakeDapr(), ECHO, "worker-2")
    other.sidecar = world.runner.sidecar
    for _ in range(4):
        await other.beat()
        await sweep_in(world, clock, 10)
    job = await world.job(job_id)
    assert (job["status"], job["attempts"]) == ("expired", 1)


async def test_nor_does_one_that_runs_unknown_to_the_ledger(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = lose
    job_id = await world.submit(max_time_in_queue_seconds=10)
    event = await world.delivered(job_id)
    await world.runner.write(event, Status.RUNNING)
    await sweep_in(world, clock, 1_000)
    assert (await world.job(job_id))["status"] == "running"


async def test_an_engine_whose_store_is_away_does_not_keep_others_from_expiring(
    world: GatewayWorld, clock: Clock
) -> None:
    for runner in world.runners.values():
        runner.answer = lose
    stuck = [await world.submit(max_time_in_queue_seconds=10) for _ in range(3)]
    other = await world.submit(engine="standard", max_time_in_queue_seconds=10)
    world.dapr.missing.add(names.results_component(ECHO))
    clock.ahead += 60
    await world.sweep()
    assert (await world.job(other))["status"] == "expired"
    assert {(await world.job(job_id))["status"] for job_id in stuck} == {"queued"}
    world.dapr.missing.clear()
    await sweep_in(world, clock, 1)
    assert {(await world.job(job_id))["status"] for job_id in stuck} == {"expired"}


@pytest.fixture
async def brief(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    """A gateway that gives a store that hangs one second."""
    async with gateway_world(tmp_path, pace=replace(impatient(clock), store_seconds=1)) as made:
        yield made


async def test_a_store_that_hangs_delays_no_other_engine_for_long(
    brief: GatewayWorld, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for runner in brief.runners.values():
        runner.answer = lose
    stuck, late = [await brief.submit(max_time_in_queue_seconds=10) for _ in range(3)], await brief.submit("late")
    other = await brief.submit(engine="standard", max_time_in_queue_seconds=10)
    begun = await brief.submit(engine="standard")
    event = await brief.delivered(begun, engine=STANDARD)
    await brief.delivered(late)
    await brief.runners[STANDARD].end(event, tell=False)
    sidecar = brief.gateway.sidecar
    read, read_many = sidecar.read, sidecar.read_many

    async def hang(store: str, key: str) -> Any:
        await asyncio.sleep(3_600 if store == names.results_component(ECHO) else 0)
        return await read(store, key)

    async def hang_many(store: str, keys: Any) -> Any:
        await asyncio.sleep(3_600 if store == names.results_component(ECHO) else 0)
        return await read_many(store, keys)

    monkeypatch.setattr(sidecar, "read", hang)
    monkeypatch.setattr(sidecar, "read_many", hang_many)
    clock.ahead += 60
    await asyncio.wait_for(brief.sweep(), 20)
    assert (await brief.job(other))["status"] == "expired"
    assert (await brief.job(begun))["status"] == "succeeded"
    assert {(await brief.job(job_id))["status"] for job_id in [*stuck, late]} == {"queued"}


@pytest.mark.parametrize("garbage", [b"no record", b"{}", b"\xff", b""])
async def test_a_record_that_cannot_be_read_keeps_no_other_job_from_expiring(
    world: GatewayWorld, clock: Clock, garbage: bytes
) -> None:
    world.runner.answer = lose
    ids = [await world.submit(max_time_in_queue_seconds=10) for _ in range(3)]
    await world.sidecar.put(names.results_component(ECHO), ids[0], garbage)
    clock.ahead += 60
    await world.sweep()
    for job_id in ids:
        job, record = await world.job(job_id), world.record(job_id)
        assert (job["status"], job["error"]["code"]) == ("expired", "EXPIRED")
        assert record
        assert record.status is Status.EXPIRED
