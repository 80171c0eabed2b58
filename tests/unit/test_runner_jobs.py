"""Every row of the table of transitions that a runner decides, and every delivery that must not run."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.runner import ENGINE, STORE, World, echo, runner_world, until

from enginehouse.contracts import names
from enginehouse.contracts.engine import Heartbeat
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.events import JOB_COMPLETED
from enginehouse.contracts.job import JobRecord, RetryPolicy, Status
from enginehouse.contracts.moments import now
from enginehouse.runner.pace import DEFAULT_PACE
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


class Gate:
    """A predict that waits until the test lets it go on."""

    def __init__(self, world: World) -> None:
        self.open = asyncio.Event()
        self.entered = 0
        self.closed = 0
        world.engine.predict = self.predict

    async def predict(self, request: web.Request) -> web.StreamResponse:
        self.entered += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.closed += 1
            raise
        return await echo(request)


def begin(world: World, job_id: str, **options: Any) -> "asyncio.Task[bool]":
    return asyncio.create_task(world.runner.receiver.deliver(world.event(job_id, **options)))


async def other_worker(world: World, in_hand: list[str], name: str = "worker-2") -> None:
    beat = Heartbeat(
        worker=name, slot="a", version="v1", concurrency=1, in_hand=in_hand, healthy=True, subscribed=True, at=now()
    )
    await world.sidecar.put(STORE, names.worker_key(name), beat.model_dump_json().encode(), 15)


def running_by(worker: str, attempt: int = 1, started_ago: float = 10) -> JobRecord:
    return JobRecord(
        status=Status.RUNNING, attempt=attempt, worker=worker, started_at=now() - timedelta(seconds=started_ago)
    )


# Settling


async def test_the_first_attempt_takes_one_write_and_one_completion(world: World) -> None:
    # What a starting runner writes beside: its card's announcement, its name in the list of workers.
    await until(lambda: world.dapr.published[names.COMPLETIONS_TOPIC] and names.WORKERS_KEY in world.dapr.stores[STORE])
    before = world.dapr.calls.copy()
    job_id = names.new_job_id()
    assert await world.runner.receiver.deliver(world.event(job_id))
    done = world.dapr.calls - before
    assert (done["create"], done["replace"], done["publish"]) == (1, 0, 1)
    assert world.completions(job_id) == ["succeeded"]


async def test_the_record_is_written_before_the_completion(world: World) -> None:
    seen: list[Status] = []

    async def on_completion(event: bytes) -> bool:
        seen.append(world.record(json.loads(event)["subject"]).status)
        return True

    world.dapr.subscribe(names.COMPLETIONS_TOPIC, on_completion)
    await world.run()
    await until(lambda: seen == [Status.SUCCEEDED])


async def test_a_result_is_kept_in_hand_until_it_can_be_written(world: World) -> None:
    world.dapr.fail("create", times=3)
    job_id = names.new_job_id()
    assert await world.runner.receiver.deliver(world.event(job_id))
    assert world.record(job_id).status is Status.SUCCEEDED
    assert len(world.engine.calls) == 1


async def test_a_write_whose_answer_was_lost_counts(world: World) -> None:
    world.dapr.fail("create", Unavailable("late"), after_doing=True)
    record = await world.run()
    assert record.status is Status.SUCCEEDED
    assert len(world.engine.calls) == 1


async def test_a_completion_that_cannot_be_published_loses_nothing(world: World) -> None:
    world.dapr.fail("publish", times=10)
    assert (await world.run()).status is Status.SUCCEEDED


async def test_jobs_that_end_while_a_hint_is_on_its_way_share_the_next_one(world: World) -> None:
    await until(lambda: world.dapr.published[names.COMPLETIONS_TOPIC])
    world.dapr.fail("publish", times=3)
    job_ids = [names.new_job_id() for _ in range(5)]
    assert all(await asyncio.gather(*(world.runner.receiver.deliver(world.event(job_id)) for job_id in job_ids)))
    events = map(json.loads, world.dapr.published[names.COMPLETIONS_TOPIC])
    hints = [[event["subject"], *event["data"].get("also", ())] for event in events if event["type"] == JOB_COMPLETED]
    assert [len(hint) for hint in hints] == [1, 4]
    assert sorted(hints[0] + hints[1]) == sorted(job_ids)


async def test_a_failure_waits_longer_each_time_and_ends_dead_lettered(world: World) -> None:
    world.engine.predict = _fails
    job_id, retry = names.new_job_id(), RetryPolicy(max_attempts=4, initial_delay_ms=1000, max_delay_ms=3000)
    for attempt, (least, most) in enumerate([(0.5, 1), (1, 2), (1.5, 3)], start=1):
        assert await world.runner.receiver.deliver(world.event(job_id, attempt=attempt, retry=retry))
        record = world.record(job_id)
        assert (record.status, record.attempt) == (Status.QUEUED, attempt)
        assert record.retry_at is not None
        assert record.started_at is not None
        assert least - 0.1 <= (record.retry_at - now()).total_seconds() <= most
    assert await world.runner.receiver.deliver(world.event(job_id, attempt=4, retry=retry))
    record = world.record(job_id)
    assert (record.status, record.attempt, record.dead_lettered) == (Status.FAILED, 4, True)
    assert record.error is not None
    assert record.error.code == "PREDICT_ERROR"
    assert world.completions(job_id) == ["queued", "queued", "queued", "failed"]


async def _fails(_: web.Request) -> web.StreamResponse:
    raise web.HTTPInternalServerError


async def test_an_engine_that_closes_the_connection_has_failed(world: World) -> None:
    async def dies(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    world.engine.predict = dies
    record = await world.run()
    assert (record.status, record.attempt) == (Status.QUEUED, 1)
    assert record.error is not None
    assert "closed the connection" in record.error.message


async def test_a_job_out_of_time_is_timed_out(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    assert await begin(world, job_id, seconds=0.1)
    record = world.record(job_id)
    assert (record.status, record.dead_lettered) == (Status.TIMED_OUT, False)
    assert record.error is not None
    assert record.error.code == "PREDICT_TIMEOUT"
    await until(lambda: gate.closed == 1)


async def test_a_timeout_is_tried_again_only_on_request(world: World) -> None:
    Gate(world)
    assert (await world.run(seconds=0.05, retry_on_timeout=True)).status is Status.QUEUED
    record = await world.run(seconds=0.05, retry_on_timeout=True, max_attempts=1)
    assert (record.status, record.dead_lettered) == (Status.TIMED_OUT, True)


# Running


async def test_a_longer_job_is_claimed_and_announced(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    record = await world.running(job_id)
    assert (record.attempt, record.worker) == (1, "worker-1")
    await until(lambda: world.completions(job_id) == ["running"])
    gate.open.set()
    assert await delivery
    assert world.record(job_id).status is Status.SUCCEEDED
    assert world.completions(job_id) == ["running", "succeeded"]


async def test_a_second_delivery_joins_the_first(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    deliveries = [begin(world, job_id), begin(world, job_id, attempt=2), begin(world, job_id)]
    await world.running(job_id)
    gate.open.set()
    assert await asyncio.gather(*deliveries) == [True, True, True]
    assert gate.entered == 1
    assert world.runner.receiver.in_hand == []


async def test_a_canceled_job_is_closed_and_its_engine_told(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    await world.running(job_id)
    await world.write(job_id, JobRecord(status=Status.CANCELED, finished_at=now()))
    assert await delivery
    assert world.record(job_id).status is Status.CANCELED
    await until(lambda: world.engine.canceled == [job_id])
    await until(lambda: gate.closed == 1)
    assert "canceled" not in world.completions(job_id)


async def test_a_job_canceled_before_its_claim_is_closed(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    await world.write(job_id, JobRecord(status=Status.CANCELED, finished_at=now()))
    assert await begin(world, job_id)
    await until(lambda: gate.closed == 1)
    assert world.record(job_id).status is Status.CANCELED


async def test_a_fast_result_never_overwrites_a_final_record(world: World) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, JobRecord(status=Status.CANCELED, finished_at=now()))
    assert await world.runner.receiver.deliver(world.event(job_id))
    assert world.record(job_id).status is Status.CANCELED
    assert world.completions(job_id) == []


async def test_a_job_canceled_while_it_waits_for_a_slot_does_not_reach_its_engine(world: World) -> None:
    gate = Gate(world)
    running = [begin(world, names.new_job_id()) for _ in range(2)]
    await until(lambda: gate.entered == 2)
    job_id = names.new_job_id()
    waiting = begin(world, job_id)
    await asyncio.sleep(2 * DEFAULT_PACE.look_again_seconds)
    await world.write(job_id, JobRecord(status=Status.CANCELED, finished_at=now()))
    gate.open.set()
    assert await asyncio.gather(*running, waiting) == [True] * 3
    assert gate.entered == 2
    assert world.record(job_id).status is Status.CANCELED
    assert world.runner.pool.replicas[0].places_taken == 0


async def test_a_job_that_gets_a_slot_at_once_is_not_read_before(world: World) -> None:
    assert (await world.run()).status is Status.SUCCEEDED
    read = [key for key in world.runners_sidecar.keys_read if names.is_job_id(key)]
    assert read == []


async def test_a_claim_that_cannot_be_written_is_written_later(world: World) -> None:
    gate = Gate(world)
    world.dapr.fail("create", times=2)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    await world.running(job_id)
    gate.open.set()
    assert await delivery
    assert gate.entered == 1


async def test_a_record_that_went_missing_is_claimed_again(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    await world.running(job_id)
    world.dapr.stores[STORE].clear()
    await world.running(job_id)
    gate.open.set()
    assert await delivery
    assert world.record(job_id).status is Status.SUCCEEDED


async def test_trouble_while_watching_ends_no_job(world: World) -> None:
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    await world.running(job_id)
    world.dapr.fail("read_many", times=3)
    await until(lambda: not world.dapr.failures["read_many"])
    gate.open.set()
    assert await delivery
    assert world.record(job_id).status is Status.SUCCEEDED


async def test_no_more_than_the_slots_run_at_once(world: World) -> None:
    gate = Gate(world)
    deliveries = [begin(world, names.new_job_id()) for _ in range(5)]
    await until(lambda: gate.entered == 2)
    assert len(world.runner.receiver.in_hand) == 5
    gate.open.set()
    assert await asyncio.gather(*deliveries) == [True] * 5
    assert gate.entered == 5


# Deliveries that must not run


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


@pytest.mark.parametrize("late", [{"attempt": 2}, {"attempt": 1, "published_ago": 60}])
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
    world.engine.predict = _fails
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
    await until(lambda: gate.closed == 1)
    assert world.record(job_id) == claim


@pytest.mark.parametrize("beats", [None, []])
async def test_the_job_of_a_vanished_worker_is_taken_over(world: World, beats: list[str] | None) -> None:
    job_id = names.new_job_id()
    await world.write(job_id, running_by("worker-2"))
    if beats is not None:  # A new process of the same name lives, and does not have the job.
        await other_worker(world, beats)
    gate = Gate(world)
    delivery = begin(world, job_id, published_ago=60)
    await until(lambda: world.record(job_id).worker == "worker-1")
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
    world.dapr.fail("read")
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


# What is no job


def _changed(world: World, **changes: Any) -> bytes:
    return json.dumps({**json.loads(world.event(names.new_job_id())), **changes}).encode()


async def test_garbage_is_dead_lettered_with_a_reason_and_the_engine_goes_on(world: World) -> None:
    garbage = {
        b"\xff\x00": "JSON",
        b"[]": "object",
        b"{}": "id",
        _changed(world, engineid="acme--other"): "not this engine",
        _changed(world, id="../../etc/passwd"): "not a job id",
        _changed(world, type="something.else"): "type",
        _changed(world, attempt=0): "attempt",
        _changed(world, data="text"): "data",
        _changed(world, expirytime="tomorrow"): "expirytime",
    }
    for body, said in garbage.items():
        assert await world.runner.receiver.deliver(body)
        letter = world.dead_letters()[-1]
        assert letter["engineid"] == ENGINE
        assert letter["data"]["reason"] == "UNPARSABLE"
        assert said in letter["data"]["error"]["message"], letter
        assert letter["data"]["event"] == body.decode("utf-8", "replace")
    assert len({letter["id"] for letter in world.dead_letters()}) == len(garbage)
    assert world.engine.calls == []
    assert (await world.run()).status is Status.SUCCEEDED


async def test_the_same_garbage_is_the_same_dead_letter(world: World) -> None:
    await world.runner.receiver.deliver(b"{}")
    await world.runner.receiver.deliver(b"{}")
    assert len({letter["id"] for letter in world.dead_letters()}) == 1


async def test_garbage_is_not_acknowledged_before_it_is_dead_lettered(world: World) -> None:
    world.dapr.fail("publish")
    assert not await world.runner.receiver.deliver(b"{}")
    assert await world.runner.receiver.deliver(b"{}")


async def test_a_record_that_cannot_be_read_is_dead_lettered(world: World) -> None:
    job_id = names.new_job_id()
    await world.sidecar.put(STORE, job_id, b"not a record")
    assert await begin(world, job_id, attempt=2)
    assert world.dead_letters()[-1]["data"]["reason"] == "UNPARSABLE"
