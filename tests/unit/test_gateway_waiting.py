"""A caller waits for a job's end with `Prefer: wait` or `?wait=`: it is woken by the end and does not poll."""

import asyncio
import time
from typing import Any

import pytest
from tests.support.gateway import ECHO, GatewayWorld
from tests.support.proofs import key_of
from tests.support.scripted_runner import never, succeed_untold
from tests.support.waiting import until_async

from enginehouse.contracts.events import JOB_COMPLETED, completion_event
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.gateway.ledger.mirror import Mirror


class Reads:
    """Counts the reads of the ledger."""

    def __init__(self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = world.gateway.ledger.database.read

        async def counted(query: Any) -> Any:
            self.count += 1
            return await original(query)

        monkeypatch.setattr(world.gateway.ledger.database, "read", counted)


async def wait_for_waiter(world: GatewayWorld) -> None:
    """Wait until some caller waits."""
    await until_async(lambda: world.gateway.jobs.waiters._endings)


async def test_a_job_that_ends_in_time_is_answered_whole(world: GatewayWorld) -> None:
    answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Prefer": "wait=5"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait"
    assert answer.json()["output"] == {"echo": 1}


async def test_a_caller_that_waits_is_woken_and_does_not_poll(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    event = await world.delivered(job_id)
    await world.until_status(job_id, Status.RUNNING)
    reads = Reads(world, monkeypatch)
    waiting = [asyncio.create_task(world.job(job_id, wait=30)) for _ in range(20)]
    await wait_for_waiter(world)
    await until_async(lambda: reads.count >= 20)
    before = time.monotonic()
    await world.runner.end(event, output="done")
    jobs = await asyncio.gather(*waiting)
    assert {job["output"] for job in jobs} == {"done"}
    assert time.monotonic() - before < 5
    # Each looked once at first, and at most once for the one change that was still to be told.
    assert reads.count <= 40
    assert world.gateway.jobs.waiters._endings == {}


async def test_callers_that_another_gateway_wakes_at_once_share_a_read(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.runner.answer = never
    gateway = world.gateway
    path, prefer = "/v1/engines/echo/jobs", {"Prefer": "wait=30"}
    waiting = [asyncio.create_task(world.client().post(path, json={"input": 1}, headers=prefer)) for _ in range(8)]
    await until_async(lambda: len(gateway.jobs.waiters._endings) == len(waiting))
    job_ids = list(gateway.jobs.waiters._endings)
    ended = JobRecord(status=Status.SUCCEEDED, attempt=1, output="done")
    await asyncio.gather(*(gateway.ledger.mirror(Mirror(job_id, ended, time.time(), ECHO)) for job_id in job_ids))
    reads = Reads(world, monkeypatch)
    for job_id in job_ids:
        gateway.jobs.waiters.wake(job_id, None)
    assert {(await answer).json()["output"] for answer in waiting} == {"done"}
    assert reads.count == 1


async def test_a_hint_may_name_several_jobs(world: GatewayWorld) -> None:
    world.runner.answer = succeed_untold
    job_ids = [await world.submit() for _ in range(5)]
    await until_async(lambda: all(world.record(job_id) for job_id in job_ids))
    hint = completion_event(
        key_of(ECHO), ECHO, JOB_COMPLETED, job_ids[0], Status.SUCCEEDED, 1, [*job_ids[1:], "not-a-job"]
    )
    assert await world.gateway.hints.deliver(hint)
    assert {(await world.job(job_id))["status"] for job_id in job_ids} == {"succeeded"}


async def test_when_its_time_runs_out_the_unfinished_job_is_the_answer(world: GatewayWorld) -> None:
    world.runner.answer = never
    answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Prefer": "wait=0.05"})
    assert answer.status_code == 202
    assert answer.json()["status"] in ("queued", "running")
    job = await world.job(answer.json()["id"], wait=0.05)
    assert job["status"] in ("queued", "running")
    assert world.gateway.jobs.waiters._endings == {}


async def test_a_job_that_has_ended_is_not_waited_for(world: GatewayWorld) -> None:
    job_id = await world.submit()
    await world.until_status(job_id, Status.SUCCEEDED)
    before = time.monotonic()
    await world.job(job_id, wait=60)
    assert time.monotonic() - before < 5


async def test_a_waiter_also_hears_of_a_job_that_another_way_ended(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    waiting = asyncio.create_task(world.job(job_id, wait=30))
    await wait_for_waiter(world)
    assert (await world.client().post(f"/v1/jobs/{job_id}/cancel")).status_code == 202
    assert (await asyncio.wait_for(waiting, 20))["status"] == "canceled"


@pytest.mark.parametrize(
    ("prefer", "waits"),
    [
        ("wait=5", True),
        ('wait="5"', True),
        ("WAIT=5", True),
        ("wait = 5", True),
        ("handling=lenient, wait=5; x=y", True),
        ("wait", True),
        ("wait=100000000", True),
        ("wait=inf", True),
        ("respond-async", False),
        ("wait=5, respond-async", False),
        ("respond-async, wait=5", False),
        ("wait=0", False),
        ("wait=-5", False),
        ("wait=nan", False),
        ("wait=soon", False),
        ("=5", False),
        (",,;=", False),
        ("return=minimal", False),
    ],
)
async def test_variants_of_prefer(world: GatewayWorld, prefer: str, waits: bool) -> None:
    answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Prefer": prefer})
    assert answer.status_code == (200 if waits else 202)
    assert ("preference-applied" in answer.headers) == waits


async def test_prefer_given_twice_counts_as_one_list(world: GatewayWorld) -> None:
    job_id = await world.submit()
    headers = [("Prefer", "handling=lenient"), ("Prefer", "wait=5")]
    answer = await world.client().get(f"/v1/jobs/{job_id}", headers=headers)
    assert answer.json()["status"] == "succeeded"
