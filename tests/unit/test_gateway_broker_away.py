"""Jobs accepted while the broker is away, or does not answer, are handed over later, and each ends once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.gateway import ECHO, Clock, GatewayWorld, gateway_world, impatient
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.job import Status


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=impatient(clock)) as made:
        yield made


async def test_while_it_is_away_jobs_are_accepted_and_follow_later(world: GatewayWorld) -> None:
    world.dapr.fail("publish", times=3)
    job_id = await world.submit()
    job = await world.job(job_id)
    assert job["status"] == "queued"

    async def waits() -> bool:
        return bool((await world.job(job_id))["status_reason"] == "waiting_for_broker")

    await until_async(waits)
    assert world.runner.events == []
    job = await world.until_status(job_id, Status.SUCCEEDED)
    assert job["status_reason"] is None


async def test_many_jobs_accepted_while_it_is_away_all_follow_in_order(world: GatewayWorld) -> None:
    world.dapr.fail("publish", times=60)
    world.dapr.fail("publish_many", times=1)
    ids = await asyncio.gather(*(world.submit(number) for number in range(50)))
    jobs = await asyncio.gather(*(world.job(job_id, wait=20) for job_id in ids))
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert len(world.runner.events) == 50


async def test_an_answer_that_got_lost_does_not_lose_the_job_nor_end_it_twice(world: GatewayWorld) -> None:
    world.dapr.fail("publish", after_doing=True)
    job_id = await world.submit()
    await world.until_status(job_id, Status.SUCCEEDED)
    await asyncio.sleep(0)
    await world.idle()
    job = await world.job(job_id)
    assert (job["status"], job["output"]) == ("succeeded", {"echo": "hello"})


async def test_one_engines_broker_does_not_hold_up_another(world: GatewayWorld) -> None:
    world.dapr.forbidden_topics.add(("jobs", names.job_topic(ECHO)))
    stuck = await world.submit()
    other = await world.submit(engine="standard")
    await world.until_status(other, Status.SUCCEEDED)
    assert (await world.job(stuck))["status"] == "queued"
    world.dapr.forbidden_topics.clear()
    await world.until_status(stuck, Status.SUCCEEDED)


async def test_a_caller_can_wait_through_it(world: GatewayWorld) -> None:
    world.dapr.fail("publish", times=2)
    answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Prefer": "wait=10"})
    assert answer.status_code == 200
