"""POST /v1/jobs/{id}/cancel: a queued or running job ends as canceled, and a job that has ended stays as it is."""

import asyncio
from pathlib import Path

import pytest
from tests.support.gateway import GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner, fail, never, succeed

from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.events import HandedJob
from enginehouse.contracts.job import Status


async def test_a_queued_job_never_runs(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, window_min=1, window_factor=1) as world:
        world.runner.answer = never
        first, second = await world.submit(1), await world.submit(2)
        answer = await world.client().post(f"/v1/jobs/{second}/cancel")
        assert answer.status_code == 202
        assert answer.json()["status"] == "canceled"
        assert answer.json()["cancel_requested"]
        assert answer.json()["error"]["code"] == "CANCELED"
        await world.runner.end(await world.delivered(first))
        await world.until_status(first, Status.SUCCEEDED)
        third = await world.submit(3)
        await world.delivered(third)
        assert world.runner.inputs() == [1, 3]


async def test_a_job_on_its_way_is_not_run_by_the_runner_that_gets_it_later(world: GatewayWorld) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(runner: ScriptedRunner, event: HandedJob) -> bool:
        arrived.set()
        await go_on.wait()
        return await succeed(runner, event)

    world.runner.answer = slow
    job_id = await world.submit()
    await arrived.wait()
    assert (await world.client().post(f"/v1/jobs/{job_id}/cancel")).json()["status"] == "canceled"
    go_on.set()
    await world.idle()
    assert (await world.job(job_id))["status"] == "canceled"
    record = world.record(job_id)
    assert record is not None
    assert record.status is Status.CANCELED


async def test_a_running_job_is_canceled_and_its_late_result_is_not_taken(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    await world.until_status(job_id, Status.RUNNING)
    answer = await world.client().post(f"/v1/jobs/{job_id}/cancel")
    assert answer.json()["status"] == "canceled"
    await world.runner.end(await world.delivered(job_id), output="too late")
    await world.sweep()
    job = await world.job(job_id)
    assert (job["status"], job["output"]) == ("canceled", None)


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
async def test_a_job_that_has_ended_stays_as_it_is(world: GatewayWorld, status: str) -> None:
    world.runner.answer = {"succeeded": succeed, "failed": fail, "canceled": never}[status]
    job_id = await world.submit()
    if status == "canceled":
        await world.client().post(f"/v1/jobs/{job_id}/cancel")
    before = await world.until_status(job_id, Status(status))
    problem_of(await world.client().post(f"/v1/jobs/{job_id}/cancel"), 409, "JOB_IS_FINAL")
    assert await world.job(job_id) == before


async def test_of_a_cancel_and_an_end_at_once_exactly_one_wins_and_everybody_agrees(world: GatewayWorld) -> None:
    world.runner.answer = never
    ids = [await world.submit(number) for number in range(20)]
    events = [await world.delivered(job_id) for job_id in ids]

    async def end(delay: int, event: HandedJob) -> None:
        for _ in range(delay):
            await asyncio.sleep(0)
        await world.runner.end(event)

    answers = await asyncio.gather(
        *(world.client().post(f"/v1/jobs/{job_id}/cancel") for job_id in ids),
        *(end(number, event) for number, event in enumerate(events)),
    )
    for job_id, answer in zip(ids, answers[:20], strict=True):
        assert answer is not None
        job, record = await world.job(job_id), world.record(job_id)
        assert record is not None
        assert job["status"] == record.status
        assert answer.status_code == (202 if job["status"] == "canceled" else 409)


async def test_while_the_store_is_away_a_cancel_says_so_and_works_later(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    await world.until_status(job_id, Status.RUNNING)
    world.dapr.fail("read", Unavailable("the store is away"), on=job_id)
    answer = await world.client().post(f"/v1/jobs/{job_id}/cancel")
    assert problem_of(answer, 503, "UNAVAILABLE")["retryable"]
    assert answer.headers["retry-after"]
    assert (await world.client().post(f"/v1/jobs/{job_id}/cancel")).status_code == 202
