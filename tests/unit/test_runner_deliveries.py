"""Deliveries whose job must not run here: it has ended, was tried already, or belongs to another worker."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.runner import Gate, World, begin, fails, other_worker, runner_world, running_by
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


async def test_a_delivery_past_its_time_is_not_run(world: World) -> None:
    job_id = names.new_job_id()
    assert await begin(world, job_id, expires_in=-1)
    assert world.engine.calls == []
    assert world.find(job_id) is None


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.CANCELED, Status.EXPIRED, Status.FAILED])
async def test_a_final_job_is_not_run(world: World, status: Status) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, JobRecord(status=status, attempt=1))
    assert await begin(world, job_id, attempt=2)
    assert world.engine.calls == []


@pytest.mark.parametrize("late", [{"attempt": 2}, {"attempt": 1, "published_ago": 120}])
async def test_an_attempt_that_was_made_already_is_not_run(world: World, late: dict[str, Any]) -> None:
    job_id = names.new_job_id()
    scheduled = JobRecord(status=Status.QUEUED, attempt=2, retry_at=now() + timedelta(seconds=60))
    await world.write(job_id, scheduled)
    assert await begin(world, job_id, **late)
    assert world.engine.calls == []
    assert world.record(job_id) == scheduled


async def test_the_next_attempt_runs(world: World) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, JobRecord(status=Status.QUEUED, attempt=1, retry_at=now()))
    assert await begin(world, job_id, attempt=2)
    assert (world.record(job_id).status, world.record(job_id).attempt) == (Status.SUCCEEDED, 2)


async def test_a_failed_duplicate_of_an_old_attempt_burns_nothing(world: World) -> None:
    world.engine.predict = fails
    job_id = names.new_job_id()
    scheduled = JobRecord(status=Status.QUEUED, attempt=1, retry_at=now() + timedelta(seconds=60))
    await world.write(job_id, scheduled)
    assert await begin(world, job_id)
    assert world.record(job_id) == scheduled


@pytest.mark.parametrize("late", [{"attempt": 2}, {"attempt": 1, "published_ago": 60}])
async def test_a_job_that_a_living_worker_runs_is_left_to_it(world: World, late: dict[str, Any]) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, running_by("worker-2"))
    await other_worker(world, [job_id])
    assert await begin(world, job_id, **late)
    assert world.engine.calls == []


async def test_a_fresh_duplicate_stops_when_it_finds_the_job_claimed(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    claim = running_by("worker-2")
    await world.write(job_id, claim)
    await other_worker(world, [job_id])
    assert await begin(world, job_id)
    await until_async(lambda: gate.closed == 1)
    assert world.record(job_id) == claim


@pytest.mark.parametrize("beats", [None, []])
async def test_the_job_of_a_vanished_worker_is_taken_over(world: World, beats: list[str] | None) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, running_by("worker-2"))
    if beats is not None:  # A new process of the same name lives, and does not have the job.
        await other_worker(world, beats)
    gate = Gate(world)
    delivery = begin(world, job_id, published_ago=60)
    await until_async(lambda: world.record(job_id).worker == "worker-1")
    assert (world.record(job_id).status, world.record(job_id).attempt) == (Status.RUNNING, 2)
    gate.open.set()
    assert await delivery
    assert (world.record(job_id).status, world.record(job_id).attempt) == (Status.SUCCEEDED, 2)


async def test_a_job_taken_since_the_last_heartbeat_is_left_alone(world: World) -> None:
    job_id = names.new_job_id()
    await other_worker(world, [])
    await world.write(job_id, running_by("worker-2", started_ago=-1))
    assert await begin(world, job_id, attempt=2)
    assert world.engine.calls == []


async def test_what_a_former_process_of_the_same_name_ran_is_taken_over(world: World) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, running_by("worker-1"))
    assert await begin(world, job_id, published_ago=60)
    assert (world.record(job_id).status, world.record(job_id).attempt) == (Status.SUCCEEDED, 2)


async def test_a_worker_lost_in_the_last_attempt_ends_the_job(world: World) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, running_by("worker-2", attempt=3))
    assert await begin(world, job_id, attempt=3)
    record = world.record(job_id)
    assert (record.status, record.attempt, record.dead_lettered) == (Status.FAILED, 3, True)
    assert record.error is not None
    assert record.error.code == "WORKER_LOST"
    assert "worker-2" in record.error.message
    assert world.engine.calls == []
    assert world.completions(job_id) == ["failed"]


async def test_a_delivery_that_cannot_be_judged_is_asked_for_again(world: World) -> None:
    job_id = names.new_job_id()
    world.dapr.fail("read", on=job_id)
    assert not await begin(world, job_id, attempt=2)
    assert await begin(world, job_id, attempt=2)
    assert world.record(job_id).status is Status.SUCCEEDED


async def test_two_workers_with_one_job_end_it_once(tmp_path: Path) -> None:
    dapr = FakeDapr()
    async with runner_world(tmp_path, dapr=dapr) as one, runner_world(tmp_path, dapr=dapr, worker="worker-2") as two:
        gates = [Gate(one), Gate(two)]
        job_id = names.new_job_id()
        first = begin(one, job_id)
        await one.running(job_id)
        await one.runner.heartbeats.beat()
        assert await begin(two, job_id)
        gates[0].open.set()
        assert await first
        assert one.record(job_id).worker == "worker-1"
        assert one.completions(job_id) == ["running", "succeeded"]
