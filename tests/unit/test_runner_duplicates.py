"""A job that has ended is not run again if its event comes a second time, even if the store has forgotten its end."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.runner import STORE, World, runner_world

from enginehouse.contracts import names
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.runner.pace import DEFAULT_PACE, Pace
from enginehouse.runner.recent_ends import RecentEnds


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


def _ended(output: str = "of the first run") -> JobRecord:
    return JobRecord(status=Status.SUCCEEDED, attempt=1, output=output)


async def test_a_duplicate_right_after_the_end_is_not_run(world: World) -> None:
    job_id = names.new_job_id()
    event = world.event(job_id)
    assert await world.runner.receiver.deliver(event)
    ended = world.record(job_id)
    assert await world.runner.receiver.deliver(event)
    assert len(world.engine.calls) == 1
    assert world.record(job_id) == ended


async def test_a_second_hand_over_is_not_run_blindly(world: World) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, _ended())
    event = json.loads(world.event(job_id)) | {"handover": 2}
    assert await world.runner.receiver.deliver(json.dumps(event).encode())
    assert world.engine.calls == []


async def test_what_was_published_before_the_runner_began_is_not_run_blindly(tmp_path: Path) -> None:
    async with runner_world(tmp_path, pace=Pace(fresh_seconds=3_600)) as world:
        job_id = names.new_job_id()
        await world.write(job_id, _ended())
        assert await world.runner.receiver.deliver(world.event(job_id, published_ago=60))
        assert world.engine.calls == []


@pytest.mark.parametrize("older", [None, "the claim"])
async def test_an_end_that_the_store_has_forgotten_is_written_again(world: World, older: str | None) -> None:
    job_id = names.new_job_id()
    ended = await _run(world, job_id)
    del world.dapr.stores[STORE][job_id]
    if older:
        await world.write(job_id, JobRecord(status=Status.RUNNING, attempt=1, worker="worker-1", started_at=now()))
    assert await world.runner.receiver.deliver(world.event(job_id, "other input", published_ago=60))
    assert len(world.engine.calls) == 1
    assert world.record(job_id) == ended
    assert world.completions(job_id) == ["succeeded", "succeeded"]


async def test_another_end_than_the_remembered_one_stays(world: World) -> None:
    job_id = names.new_job_id()
    await _run(world, job_id)
    del world.dapr.stores[STORE][job_id]
    canceled = JobRecord(status=Status.CANCELED)
    await world.write(job_id, canceled)
    assert await world.runner.receiver.deliver(world.event(job_id, published_ago=60))
    assert world.record(job_id) == canceled
    assert len(world.engine.calls) == 1


async def _run(world: World, job_id: str) -> JobRecord:
    assert await world.runner.receiver.deliver(world.event(job_id))
    return world.record(job_id)


def test_the_oldest_is_forgotten_first() -> None:
    memory = RecentEnds(Pace(recent_ends_max=2, recent_ends_max_bytes=100))
    for name in ("a", "b", "c"):
        memory.add(name, _ended(name), 10)
    assert "a" not in memory
    assert memory.get("c") == _ended("c")
    memory.add("d", _ended("large"), 95)
    assert "c" not in memory
    assert "d" in memory


def test_how_a_job_goes_on_is_not_how_it_ended() -> None:
    memory = RecentEnds(DEFAULT_PACE)
    memory.add("a", JobRecord(status=Status.QUEUED, attempt=1, retry_at=now()), 0)
    assert "a" in memory
    assert memory.get("a") is None
