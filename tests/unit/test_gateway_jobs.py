"""What a caller can do with jobs, over HTTP: submit, wait, list, cancel, retry."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, STANDARD, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner, fail, never, retry, succeed, succeed_untold
from tests.support.waiting import until_async

from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.events import JOB_COMPLETED, JobEvent, completion_event
from enginehouse.contracts.job import Job, JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import new_job_id


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path) as made:
        yield made


class Reads:
    """Counts what is asked of the ledger."""

    def __init__(self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = world.gateway.ledger.database.read

        async def counted(query: Any) -> Any:
            self.count += 1
            return await original(query)

        monkeypatch.setattr(world.gateway.ledger.database, "read", counted)


async def wait_for_waiter(world: GatewayWorld) -> None:
    """Until some caller waits."""
    await until_async(lambda: world.gateway.jobs.waiters._endings)


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
    assert (event.engineid, event.tenantid, event.attempt) == (engine, "acme", 1)


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


class TestWaiting:
    """Prefer: wait and ?wait="""

    async def test_a_job_that_ends_in_time_is_answered_whole(self, world: GatewayWorld) -> None:
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Prefer": "wait=5"})
        assert answer.status_code == 200
        assert answer.headers["preference-applied"] == "wait"
        assert answer.json()["output"] == {"echo": 1}

    async def test_a_caller_that_waits_is_woken_and_does_not_poll(
        self, world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
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

    async def test_a_hint_may_name_several_jobs(self, world: GatewayWorld) -> None:
        world.runner.answer = succeed_untold
        job_ids = [await world.submit() for _ in range(5)]
        await until_async(lambda: all(world.record(job_id) for job_id in job_ids))
        hint = completion_event(JOB_COMPLETED, ECHO, job_ids[0], Status.SUCCEEDED, 1, [*job_ids[1:], "not-a-job"])
        assert await world.gateway.hints.deliver(hint)
        assert {(await world.job(job_id))["status"] for job_id in job_ids} == {"succeeded"}

    async def test_when_its_time_runs_out_the_unfinished_job_is_the_answer(self, world: GatewayWorld) -> None:
        world.runner.answer = never
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Prefer": "wait=0.05"})
        assert answer.status_code == 202
        assert answer.json()["status"] in ("queued", "running")
        job = await world.job(answer.json()["id"], wait=0.05)
        assert job["status"] in ("queued", "running")
        assert world.gateway.jobs.waiters._endings == {}

    async def test_a_job_that_has_ended_is_not_waited_for(self, world: GatewayWorld) -> None:
        job_id = await world.submit()
        await world.until_status(job_id, Status.SUCCEEDED)
        before = time.monotonic()
        await world.job(job_id, wait=60)
        assert time.monotonic() - before < 5

    async def test_a_waiter_also_hears_of_a_job_that_another_way_ended(self, world: GatewayWorld) -> None:
        world.runner.answer = never
        job_id = await world.submit()
        waiting = asyncio.create_task(world.job(job_id, wait=30))
        await wait_for_waiter(world)
        assert (await world.client().post(f"/v1/jobs/{job_id}/cancel")).status_code == 202
        assert (await asyncio.wait_for(waiting, 5))["status"] == "canceled"

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
    async def test_variants_of_prefer(self, world: GatewayWorld, prefer: str, waits: bool) -> None:
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Prefer": prefer})
        assert answer.status_code == (200 if waits else 202)
        assert ("preference-applied" in answer.headers) == waits

    async def test_prefer_given_twice_counts_as_one_list(self, world: GatewayWorld) -> None:
        job_id = await world.submit()
        headers = [("Prefer", "handling=lenient"), ("Prefer", "wait=5")]
        answer = await world.client().get(f"/v1/jobs/{job_id}", headers=headers)
        assert answer.json()["status"] == "succeeded"


class TestIdempotency:
    """Idempotency-Key"""

    async def submit(self, world: GatewayWorld, key: str, tenant: str = "acme", **body: Any) -> Any:
        request = {"input": 1, "engine": "standard", **body}
        return await world.client(tenant).post("/v1/jobs", json=request, headers={"Idempotency-Key": key})

    async def test_the_same_request_again_is_the_same_job_and_runs_once(self, world: GatewayWorld) -> None:
        answers = await asyncio.gather(*(self.submit(world, "k") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {202}
        (job_id,) = {answer.json()["id"] for answer in answers}
        await world.until_status(job_id, Status.SUCCEEDED)
        assert (await self.submit(world, "k")).json()["id"] == job_id
        assert len(world.runners[STANDARD].events) == 1
        assert (await world.stored())["jobs"] == 1

    @pytest.mark.parametrize("other", [{"input": 2}, {"priority": 1}, {"engine": "echo"}, {"parameters": {}}])
    async def test_another_request_under_that_key_is_refused(self, world: GatewayWorld, other: Any) -> None:
        assert (await self.submit(world, "k")).status_code == 202
        problem_of(await self.submit(world, "k", **other), 422, "IDEMPOTENCY_KEY_REUSED")
        assert (await world.stored())["jobs"] == 1

    async def test_tenants_keys_have_nothing_to_do_with_each_other(self, world: GatewayWorld) -> None:
        ids = {(await self.submit(world, "k", tenant)).json()["id"] for tenant in ("acme", "umbra")}
        assert len(ids) == 2

    async def test_a_refused_request_leaves_its_key_free(self, world: GatewayWorld) -> None:
        problem_of(await self.submit(world, "k", engine="none-such"), 404)
        assert (await self.submit(world, "k")).status_code == 202

    async def test_with_wait_the_repeated_request_gets_the_same_result(self, world: GatewayWorld) -> None:
        headers = {"Idempotency-Key": "k", "Prefer": "wait=5"}
        answers = [
            await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers=headers) for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()

    async def test_a_batch_again_is_the_same_jobs(self, world: GatewayWorld) -> None:
        body = {"jobs": [{"engine": "echo", "input": number} for number in range(50)]}
        answers = [
            (await world.client().post("/v1/jobs/batch", json=body, headers={"Idempotency-Key": "k"})).json()
            for _ in range(2)
        ]
        assert answers[0] == answers[1]
        assert (await world.stored())["jobs"] == 50


class TestCancel:
    """POST /v1/jobs/{id}/cancel"""

    async def test_a_queued_job_never_runs(self, tmp_path: Path) -> None:
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

    async def test_a_job_on_its_way_is_not_run_by_the_runner_that_gets_it_later(self, world: GatewayWorld) -> None:
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def slow(runner: ScriptedRunner, event: JobEvent) -> bool:
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

    async def test_a_running_job_is_canceled_and_its_late_result_is_not_taken(self, world: GatewayWorld) -> None:
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
    async def test_a_job_that_has_ended_stays_as_it_is(self, world: GatewayWorld, status: str) -> None:
        world.runner.answer = {"succeeded": succeed, "failed": fail, "canceled": never}[status]
        job_id = await world.submit()
        if status == "canceled":
            await world.client().post(f"/v1/jobs/{job_id}/cancel")
        before = await world.until_status(job_id, Status(status))
        problem_of(await world.client().post(f"/v1/jobs/{job_id}/cancel"), 409, "JOB_IS_FINAL")
        assert await world.job(job_id) == before

    async def test_of_a_cancel_and_an_end_at_once_exactly_one_wins_and_everybody_agrees(
        self, world: GatewayWorld
    ) -> None:
        world.runner.answer = never
        ids = [await world.submit(number) for number in range(20)]
        events = [await world.delivered(job_id) for job_id in ids]

        async def end(delay: int, event: JobEvent) -> None:
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

    async def test_while_the_store_is_away_a_cancel_says_so_and_works_later(self, world: GatewayWorld) -> None:
        world.runner.answer = never
        job_id = await world.submit()
        await world.until_status(job_id, Status.RUNNING)
        world.dapr.fail("read", Unavailable("the store is away"))
        answer = await world.client().post(f"/v1/jobs/{job_id}/cancel")
        assert problem_of(answer, 503, "UNAVAILABLE")["retryable"]
        assert answer.headers["retry-after"]
        assert (await world.client().post(f"/v1/jobs/{job_id}/cancel")).status_code == 202


class TestRetry:
    """POST /v1/jobs/{id}/retry, and attempts of one job"""

    async def test_a_failed_job_is_repeated_as_a_new_one(self, world: GatewayWorld) -> None:
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

    async def test_a_job_that_has_not_ended_cannot_be_repeated(self, world: GatewayWorld) -> None:
        world.runner.answer = never
        job_id = await world.submit()
        problem_of(await world.client().post(f"/v1/jobs/{job_id}/retry"), 409, "JOB_NOT_FINAL")
        assert (await world.stored())["jobs"] == 1

    async def test_an_attempt_that_failed_is_followed_by_another(self, world: GatewayWorld) -> None:
        world.runner.answer = retry
        job_id = await world.submit(retry={"max_attempts": 3, "initial_delay_ms": 0})
        job = await world.until_status(job_id, Status.FAILED)
        assert [event.attempt for event in world.runner.events] == [1, 2, 3]
        assert (job["attempts"], job["dead_lettered"]) == (3, True)

    async def test_until_its_time_has_come_a_retry_waits_and_says_so(self, world: GatewayWorld) -> None:
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


class TestListing:
    """GET /v1/jobs"""

    async def test_pages_of_ones_own_jobs_newest_first_without_their_contents(self, world: GatewayWorld) -> None:
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

    async def test_by_engine_and_status(self, world: GatewayWorld) -> None:
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
