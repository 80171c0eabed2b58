"""Several jobs come in one event: each runs, ends and comes again by itself."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.job_events import jobs_event
from tests.support.proofs import key_of
from tests.support.runner import ENGINE, Gate, World, begin, runner_world, running_by
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.events import JOB_COMPLETED, JobOrder
from enginehouse.contracts.job import JobRecord, RetryPolicy, Status
from enginehouse.contracts.moments import now


def _event(job_ids: list[str], *, hand_over: int = 1) -> bytes:
    """Return the event that hands over these jobs, each with its own id as its input."""
    order = JobOrder(execution_timeout_seconds=30, retry=RetryPolicy(), record_ttl_seconds=600)
    orders = {job_id: order.model_copy(update={"input": job_id}) for job_id in job_ids}
    return jobs_event(key_of(ENGINE), ENGINE, "acme", orders, expires=now() + timedelta(hours=1), hand_over=hand_over)


def _ids(number: int) -> list[str]:
    return [names.new_job_id() for _ in range(number)]


async def test_each_job_of_an_event_gets_its_own_result(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        job_ids = _ids(5)
        assert await world.runner.receiver.deliver(_event(job_ids))
        assert [world.record(job_id).output for job_id in job_ids] == job_ids
        assert sorted(call["data"] for call in world.engine.calls) == sorted(job_ids)


async def test_a_delivery_is_acknowledged_when_its_last_job_is_settled(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        gate = Gate(world)
        job_ids = _ids(2)
        delivery = asyncio.create_task(world.runner.receiver.deliver(_event(job_ids)))
        await until_async(lambda: gate.entered == 2)
        assert not delivery.done()
        assert sorted(world.runner.receiver.in_hand) == sorted(job_ids)
        gate.open.set()
        assert await delivery


async def test_an_event_that_comes_again_after_its_worker_vanished_runs_only_what_had_not_ended(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        ended, given_up, running, untouched = job_ids = _ids(4)
        await world.write(ended, JobRecord(status=Status.SUCCEEDED, attempt=1, worker="worker-0", output="before"))
        await world.write(given_up, JobRecord(status=Status.CANCELED, attempt=1))
        await world.write(running, running_by("worker-0"))
        assert await world.runner.receiver.deliver(_event(job_ids, hand_over=2))
        assert sorted(call["data"] for call in world.engine.calls) == sorted([running, untouched])
        assert [world.record(job_id).status for job_id in job_ids] == [
            Status.SUCCEEDED,
            Status.CANCELED,
            Status.SUCCEEDED,
            Status.SUCCEEDED,
        ]
        assert (world.record(ended).output, world.record(running).attempt) == ("before", 2)


async def test_if_one_job_cannot_be_judged_the_event_comes_again_and_runs_no_other_twice(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        job_ids = _ids(3)
        body = _event(job_ids, hand_over=2)  # So that each record is looked at.
        world.dapr.fail("read", on=job_ids[1])
        assert not await world.runner.receiver.deliver(body)
        assert world.find(job_ids[1]) is None
        assert await world.runner.receiver.deliver(body)
        assert {world.record(job_id).status for job_id in job_ids} == {Status.SUCCEEDED}
        assert sorted(call["data"] for call in world.engine.calls) == sorted(job_ids)


async def test_a_job_that_was_handed_back_does_not_run_again_because_another_of_its_event_comes_again(
    tmp_path: Path,
) -> None:
    async with runner_world(tmp_path) as world:
        handed_back, other = _ids(2)
        body = _event([handed_back, other], hand_over=2)
        later = now() + timedelta(seconds=1)
        await world.write(handed_back, JobRecord(status=Status.QUEUED, attempt=0, retry_at=later))
        assert await world.runner.receiver.deliver(body)
        assert [call["data"] for call in world.engine.calls] == [other]


async def test_a_job_that_is_in_hand_already_is_joined(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        gate = Gate(world)
        job_ids = _ids(2)
        first = begin(world, job_ids[1])
        await until_async(lambda: gate.entered == 1)
        both = asyncio.create_task(world.runner.receiver.deliver(_event(job_ids)))
        await until_async(lambda: gate.entered == 2)
        gate.open.set()
        assert await first
        assert await both
        assert gate.entered == 2


@pytest.mark.parametrize("spoilt", ["id", "proof", "tenantid"])
async def test_an_event_with_one_job_that_no_gateway_has_handed_over_runs_none_and_ends_none(
    tmp_path: Path, spoilt: str
) -> None:
    async with runner_world(tmp_path) as world:
        event = json.loads(_event(_ids(3)))
        event["data"]["also"][1][spoilt] = names.new_job_id() if spoilt == "id" else "umbra"
        assert await world.runner.receiver.deliver(json.dumps(event).encode())
        assert world.engine.calls == []
        (letter,) = world.dead_letters()
        # Any of the three may be the one: each comes again alone, and then ends if it is.
        assert "job_id" not in letter["data"]


async def test_a_worker_that_stops_has_its_delivery_acknowledged_when_all_its_jobs_are_claimed(tmp_path: Path) -> None:
    async with runner_world(tmp_path, claim_after_seconds=30, stop_grace_seconds=20) as world:
        gate = Gate(world)
        job_ids = _ids(2)
        delivery = asyncio.create_task(world.runner.receiver.deliver(_event(job_ids)))
        await until_async(lambda: gate.entered == 2)
        draining = asyncio.create_task(world.runner.drain())
        assert await delivery
        assert {(await _running(world, job_id)) for job_id in job_ids} == {Status.RUNNING}
        gate.open.set()
        await draining
        assert {world.record(job_id).status for job_id in job_ids} == {Status.SUCCEEDED}


async def _running(world: World, job_id: str) -> Status:
    return (await world.running(job_id)).status


async def test_final_records_come_along_with_the_completion_as_they_are_stored(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        job_ids = _ids(3)
        assert await world.runner.receiver.deliver(_event(job_ids))
        brought = dict[str, str]()
        for event in world.dapr.published[names.COMPLETIONS_TOPIC]:
            brought |= json.loads(event)["data"].get("records", {})
        assert brought == {
            job_id: world.dapr.stores[names.results_component(ENGINE)][job_id].value.decode() for job_id in job_ids
        }


async def test_a_large_record_does_not_come_along(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        await world.run("x" * 9_000)
        told = [json.loads(event) for event in world.dapr.published[names.COMPLETIONS_TOPIC]]
        assert [event["data"] for event in told if event["type"] == JOB_COMPLETED] == [{"status": "succeeded"}]
