"""A failed job is repeated as a new job by POST /v1/jobs/{id}/retry, and attempts of one job follow each other."""

from tests.support.gateway import GatewayWorld
from tests.support.problems import problem_of
from tests.support.scripted_runner import fail, never, retry, succeed

from enginehouse.contracts.job import Status
from enginehouse.contracts.moments import now


async def test_a_failed_job_is_repeated_as_a_new_one(world: GatewayWorld) -> None:
    world.runner.answer = fail
    job_id = await world.submit({"a": 1}, priority=7, parameters={"p": 1}, execution_timeout_seconds=5)
    before = await world.until_status(job_id, Status.FAILED)
    assert before["dead_lettered"]
    world.runner.answer = succeed
    answer = await world.client().post(f"/v1/jobs/{job_id}/retry")
    assert answer.status_code == 202
    again = answer.json()["id"]
    assert again != job_id
    new = await world.until_status(again, Status.SUCCEEDED)
    assert (new["retry_of"], new["input"]) == (job_id, {"a": 1})
    event = await world.delivered(again)
    assert (event.data.parameters, event.data.execution_timeout_seconds) == ({"p": 1}, 5)
    assert await world.job(job_id) == before | {"retried_as": again}


async def test_a_job_that_has_not_ended_cannot_be_repeated(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    problem_of(await world.client().post(f"/v1/jobs/{job_id}/retry"), 409, "JOB_NOT_FINAL")
    assert (await world.stored())["jobs"] == 1


async def test_an_attempt_that_failed_is_followed_by_another(world: GatewayWorld) -> None:
    world.runner.answer = retry
    job_id = await world.submit(retry={"max_attempts": 3, "initial_delay_ms": 0})
    job = await world.until_status(job_id, Status.FAILED)
    assert [event.attempt for event in world.runner.events] == [1, 2, 3]
    assert (job["attempts"], job["dead_lettered"]) == (3, True)


async def test_until_its_time_has_come_a_retry_waits_and_says_so(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    event = await world.delivered(job_id)
    await world.until_status(job_id, Status.RUNNING)
    later = now().replace(year=now().year + 1)
    await world.runner.end(event, Status.QUEUED, retry_at=later)
    job = await world.until_status(job_id, Status.QUEUED)
    assert job["status_reason"] == "retry_scheduled"
    await world.sweep()
    assert len(world.runner.events) == 1
