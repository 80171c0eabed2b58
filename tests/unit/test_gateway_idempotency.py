"""Requests with the same Idempotency-Key are one job, however often they come."""

import asyncio
from typing import Any

import pytest
from tests.support.gateway import STANDARD, GatewayWorld
from tests.support.problems import problem_of

from enginehouse.contracts.job import Status


async def submit(world: GatewayWorld, key: str, tenant: str = "acme", **body: Any) -> Any:
    request = {"input": 1, "engine": "standard", **body}
    return await world.client(tenant).post("/v1/jobs", json=request, headers={"Idempotency-Key": key})


async def test_the_same_request_again_is_the_same_job_and_runs_once(world: GatewayWorld) -> None:
    answers = await asyncio.gather(*(submit(world, "k") for _ in range(30)))
    assert {answer.status_code for answer in answers} == {202}
    (job_id,) = {answer.json()["id"] for answer in answers}
    await world.until_status(job_id, Status.SUCCEEDED)
    assert (await submit(world, "k")).json()["id"] == job_id
    assert len(world.runners[STANDARD].events) == 1
    assert (await world.stored())["jobs"] == 1


@pytest.mark.parametrize("other", [{"input": 2}, {"priority": 1}, {"engine": "echo"}, {"parameters": {}}])
async def test_another_request_under_that_key_is_refused(world: GatewayWorld, other: Any) -> None:
    assert (await submit(world, "k")).status_code == 202
    problem_of(await submit(world, "k", **other), 422, "IDEMPOTENCY_KEY_REUSED")
    assert (await world.stored())["jobs"] == 1


async def test_tenants_keys_have_nothing_to_do_with_each_other(world: GatewayWorld) -> None:
    ids = {(await submit(world, "k", tenant)).json()["id"] for tenant in ("acme", "umbra")}
    assert len(ids) == 2


async def test_a_refused_request_leaves_its_key_free(world: GatewayWorld) -> None:
    problem_of(await submit(world, "k", engine="none-such"), 404)
    assert (await submit(world, "k")).status_code == 202


async def test_with_wait_the_repeated_request_gets_the_same_result(world: GatewayWorld) -> None:
    headers = {"Idempotency-Key": "k", "Prefer": "wait=5"}
    answers = [await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()


async def test_a_batch_again_is_the_same_jobs(world: GatewayWorld) -> None:
    body = {"jobs": [{"engine": "echo", "input": number} for number in range(50)]}
    answers = [
        (await world.client().post("/v1/jobs/batch", json=body, headers={"Idempotency-Key": "k"})).json()
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert (await world.stored())["jobs"] == 50
