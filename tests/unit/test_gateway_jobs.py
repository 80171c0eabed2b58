"""Jobs over HTTP, from their submission to the end of their result: every way to submit, read and list them."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, STANDARD, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.scripted_runner import fail, never

from enginehouse.contracts.job import Job, JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import new_job_id


async def test_a_submitted_job_is_accepted_run_and_read(world: GatewayWorld) -> None:
    answer = await world.client().post("/v1/engines/echo/jobs", json={"input": {"a": 1}})
    assert answer.status_code == 202
    accepted = answer.json()
    assert answer.headers["location"] == accepted["urls"]["get"] == f"/v1/jobs/{accepted['id']}"
    assert (accepted["engine"], accepted["status"]) == (ECHO, "queued")
    job = Job.model_validate(await world.until_status(accepted["id"], Status.SUCCEEDED))
    assert (job.input, job.output, job.attempts, job.status_reason) == ({"a": 1}, {"echo": {"a": 1}}, 1, None)
    assert job.metrics.predict_time == 0.01
    assert job.metrics.queue_time is not None
    assert job.created_at <= job.finished_at <= job.expires_at  # type: ignore[operator]
    assert (job.expires_at - job.finished_at).total_seconds() == 86_400  # type: ignore[operator]


@pytest.mark.parametrize(
    ("path", "body", "engine"),
    [
        ("/v1/engines/echo/jobs", {}, ECHO),
        ("/v1/engines/acme--echo/jobs", {}, ECHO),
        ("/v1/engines/shared--standard/jobs", {}, STANDARD),
        ("/v1/jobs", {"engine": "echo"}, ECHO),
        ("/v1/jobs", {"engine": "standard"}, STANDARD),
        ("/v1/jobs", {}, STANDARD),
    ],
)
async def test_every_way_of_naming_the_engine(world: GatewayWorld, path: str, body: Any, engine: str) -> None:
    answer = await world.client().post(path, json={"input": 1, **body})
    assert answer.json()["engine"] == engine
    event = await world.delivered(answer.json()["id"], engine=engine)
    assert (event.tenantid, event.attempt) == ("acme", 1)
    assert world.runners[engine].engines_named == {engine}


async def test_a_tenants_own_engine_goes_before_a_shared_one_of_that_name(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, engines=[STANDARD, "acme--standard"]) as world:
        for tenant, engine in (("acme", "acme--standard"), ("umbra", STANDARD)):
            answer = await world.client(tenant).post("/v1/jobs", json={"input": 1})
            assert answer.json()["engine"] == engine


async def test_what_was_asked_for_reaches_the_engine_and_what_was_not_is_as_its_card_says(tmp_path: Path) -> None:
    card = {"execution_timeout_seconds": 7, "max_time_in_queue_seconds": 100, "retry": {"max_attempts": 2}}
    async with gateway_world(tmp_path, cards={ECHO: card}) as world:
        plain = await world.delivered(await world.submit())
        assert (plain.data.execution_timeout_seconds, plain.data.retry.max_attempts) == (7, 2)
        assert (plain.expirytime - now()).total_seconds() == pytest.approx(100, abs=5)
        asked = await world.delivered(
            await world.submit(
                execution_timeout_seconds=3,
                max_time_in_queue_seconds=50,
                retry={"max_attempts": 5},
                retry_on_timeout=True,
                parameters={"p": 1},
            )
        )
        assert (asked.data.execution_timeout_seconds, asked.data.retry.max_attempts) == (3, 5)
        assert (asked.data.retry_on_timeout, asked.data.parameters) == (True, {"p": 1})
        assert (asked.expirytime - now()).total_seconds() == pytest.approx(50, abs=5)


async def test_a_trace_goes_with_the_job_unless_it_is_none(world: GatewayWorld) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    for given, kept in ((trace, trace), ("not a trace", None), (trace.upper(), None)):
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"traceparent": given})
        assert (await world.delivered(answer.json()["id"])).traceparent == kept


async def test_a_result_past_its_time_is_gone_and_says_so(world: GatewayWorld) -> None:
    job_id = await world.submit(result_ttl_seconds=60)
    job = await world.until_status(job_id, Status.SUCCEEDED)
    assert job["expires_at"]
    await world.change(job_id, result_expires_at=time.time() - 1)
    problem_of(await world.client().get(f"/v1/jobs/{job_id}"), 410, "RESULT_EXPIRED")
    await world.sweep()
    problem_of(await world.client().get(f"/v1/jobs/{job_id}"), 410, "RESULT_EXPIRED")
    problem_of(await world.client().post(f"/v1/jobs/{job_id}/retry"), 410, "RESULT_EXPIRED")
    problem_of(await world.client().post(f"/v1/jobs/{job_id}/cancel"), 409, "JOB_IS_FINAL")


async def test_an_unfinished_job_is_never_past_its_time(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id = await world.submit(result_ttl_seconds=60)
    assert (await world.job(job_id))["expires_at"] is None


async def test_a_record_says_nothing_about_a_job_of_another_engine(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    await world.until_status(job_id, Status.RUNNING)
    forger = world.runners[STANDARD]
    forged = JobRecord(status=Status.SUCCEEDED, attempt=1, output="forged", finished_at=now())
    await forger.records.change(job_id, 60, lambda _: forged)
    await forger.tell("dev.enginehouse.job.completed.v1", job_id, Status.SUCCEEDED, 1)
    await forger.tell("dev.enginehouse.job.completed.v1", new_job_id(), Status.SUCCEEDED, 1)
    await world.idle()
    assert (await world.job(job_id))["status"] == "running"


async def test_pages_of_ones_own_jobs_newest_first_without_their_contents(world: GatewayWorld) -> None:
    mine = [await world.submit(number) for number in range(5)]
    await world.submit(tenant="umbra", engine="standard")
    await asyncio.gather(*(world.until_status(job_id, Status.SUCCEEDED) for job_id in mine))
    seen, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await world.client().get("/v1/jobs", params=query)).json()
        seen += page["jobs"]
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert [job["id"] for job in seen] == mine[::-1]
    assert all(job.get("input") is None and job["output"] is None for job in seen)


async def test_by_engine_and_status(world: GatewayWorld) -> None:
    world.runner.answer = fail
    failed = await world.submit()
    done = await world.submit(engine="standard")
    await world.until_status(failed, Status.FAILED)
    await world.until_status(done, Status.SUCCEEDED)
    for query, wanted in [
        ({"engine": "echo"}, [failed]),
        ({"engine": "shared--standard"}, [done]),
        ({"status": "failed"}, [failed]),
        ({"status": "succeeded", "engine": "echo"}, []),
    ]:
        page = (await world.client().get("/v1/jobs", params=query)).json()
        assert [job["id"] for job in page["jobs"]] == wanted


async def test_a_tenants_pages_are_read_one_after_the_other_and_no_other_tenants_wait(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reading, most = world.gateway.ledger.read, {"acme": 0, "umbra": 0}, {"acme": 0, "umbra": 0}
    together = asyncio.Event()

    async def noting(query: Any, listing: Any) -> Any:
        reading[listing.tenant] += 1
        most[listing.tenant] = max(most[listing.tenant], reading[listing.tenant])
        if all(reading.values()):
            together.set()
        await asyncio.wait_for(together.wait(), 20)
        found = await read(query, listing)
        reading[listing.tenant] -= 1
        return found

    monkeypatch.setattr(world.gateway.ledger, "read", noting)
    answers = await asyncio.gather(*(world.client(tenant).get("/v1/jobs") for tenant in ("acme", "umbra") * 4))
    assert {answer.status_code for answer in answers} == {200}
    assert most == {"acme": 1, "umbra": 1}
