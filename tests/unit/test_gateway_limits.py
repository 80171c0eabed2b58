"""No tenant takes everything: rates, jobs in flight and queues are limited, and engines' places are shared fairly."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from tests.support.gateway import ECHO, STANDARD, GatewayWorld, gateway_world
from tests.support.ledger import new_job
from tests.support.problems import problem_of
from tests.support.scripted_runner import lose, succeed
from tests.support.waiting import until_async

from enginehouse.contracts.errors import QueueFull, RateLimited
from enginehouse.contracts.events import HandedJob
from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger.counts import of_tenants

BATCH = "/v1/jobs/batch"


def limit(folder: Path, world: GatewayWorld, tenant: str = "acme", **limits: float) -> None:
    """Write a tenant's limits, as its file has them, and have them read."""
    path = folder / "tenants" / tenant / "tenant.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "limits": limits}))
    world.gateway.tenants.load()


def batch(size: int, engine: str = "echo") -> dict[str, Any]:
    return {"jobs": [{"engine": engine, "input": number} for number in range(size)]}


def refusals(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 202, answer.text
    return [item["problem"] for item in answer.json()["jobs"] if "problem" in item]


async def post(world: GatewayWorld, tenant: str = "acme") -> httpx2.Response:
    return await world.client(tenant).post("/v1/engines/standard/jobs", json={"input": 1})


def refused(answer: httpx2.Response, code: str) -> int:
    """Seconds after which to come back."""
    body = problem_of(answer, 429, code)
    assert body["retryable"] is True
    return int(answer.headers["retry-after"])


async def test_one_tenant_has_so_many_open_requests_and_no_more(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        limit(tmp_path, world, open_requests=3)
        world.runner.answer = lose
        job_id = await world.submit()
        waiting = [
            asyncio.create_task(world.client().get(f"/v1/jobs/{job_id}", params={"wait": 30})),
            asyncio.create_task(world.client().get(f"/v1/jobs/{job_id}/events")),
            asyncio.create_task(
                world.client().post("/v1/engines/standard/jobs", json={"input": 1}, headers={"Prefer": "wait=30"})
            ),
        ]
        await until_async(lambda: world.gateway.open_requests._open["acme"] == 3)
        for path in ("/v1/jobs", f"/v1/jobs/{job_id}"):
            assert refused(await world.client().get(path), RateLimited.code) == 1
        assert "3 requests open" in (await post(world)).json()["detail"]
        assert (await post(world, "umbra")).status_code == 202
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await until_async(lambda: not world.gateway.open_requests._open)
        assert (await post(world)).status_code == 202


async def test_who_submits_too_fast_is_told_when_to_come_back_and_nobody_else_is(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        limit(tmp_path, world, submits_per_second=0.3)
        assert (await post(world)).status_code == 202
        answer = await post(world)
        assert refused(answer, RateLimited.code) == 4
        assert "0.3 jobs a second" in answer.json()["detail"]
        assert (await post(world, "umbra")).status_code == 202
        assert (await world.stored())["jobs"] == 2


async def test_who_has_too_many_in_flight_waits_until_one_has_ended(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        limit(tmp_path, world, jobs_in_flight=3)
        world.runners[STANDARD].answer = lose
        jobs = [await world.submit(engine="standard") for _ in range(3)]
        assert refused(await post(world), RateLimited.code) == 5
        event = await world.delivered(jobs[0], engine=STANDARD)
        waiting = asyncio.create_task(world.client().get(f"/v1/jobs/{jobs[0]}?wait=10"))
        await world.runners[STANDARD].end(event)
        assert (await waiting).json()["status"] == Status.SUCCEEDED

        async def is_taken() -> bool:
            return (await post(world)).status_code == 202

        # The end can be read from the ledger a moment before the place is free.
        await until_async(is_taken, "the next job is taken")
        assert refused(await post(world), RateLimited.code) == 5


async def test_a_batch_cannot_overshoot_a_limit(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        limit(tmp_path, world, jobs_in_flight=10)
        world.runner.answer = lose
        told = refusals(await world.client().post(BATCH, json=batch(100)))
        assert [(item["code"], item["retryable"]) for item in told] == [("RATE_LIMITED", True)] * 90
        assert (await world.stored())["jobs"] == 10


async def test_after_a_restart_what_is_in_flight_still_counts(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as before:
        before.runner.answer = lose
        for number in range(3):
            await before.submit(number)
    async with gateway_world(tmp_path) as world:
        limit(tmp_path, world, jobs_in_flight=3)
        await world.sweep()
        refused(await post(world), RateLimited.code)


async def test_a_queue_that_is_full_takes_no_more_until_there_is_room(tmp_path: Path) -> None:
    cards = {ECHO: {"max_queued_jobs": 5}}
    async with gateway_world(tmp_path, cards=cards, window_min=2, window_factor=1) as world:
        world.runner.answer = lose
        jobs = [await world.submit(number) for number in range(7)]
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1})
        assert refused(answer, QueueFull.code) == 5
        assert ECHO in answer.json()["detail"]
        assert (await post(world)).status_code == 202
        for job_id in jobs[:2]:
            await world.runner.end(await world.delivered(job_id))
        await world.delivered(jobs[3])
        await world.submit("now there is room")


async def test_a_batch_cannot_overfill_a_queue_by_more_than_a_window(tmp_path: Path) -> None:
    cards = {ECHO: {"max_queued_jobs": 5}}
    async with gateway_world(tmp_path, cards=cards, window_min=4, window_factor=1) as world:
        world.runner.answer = lose
        told = refusals(await world.client().post(BATCH, json=batch(200)))
        assert {item["code"] for item in told} == {"QUEUE_FULL"}
        # What the window takes does not wait.
        assert 200 - len(told) == 4 + 5
        again = refusals(await world.client().post(BATCH, json=batch(200)))
        assert 200 - len(again) <= 4


async def test_a_refused_submit_leaves_nothing(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, objects_url=(tmp_path / "objects").as_uri(), inline_max_bytes=10) as world:
        headers = {"Idempotency-Key": "once"}
        path = "/v1/engines/echo/jobs"
        assert (await world.client().post(path, json={"input": "x" * 20}, headers=headers)).status_code == 202
        answer = await world.client().post(path, json={"input": "y" * 20}, headers=headers)
        problem_of(answer, 422, "IDEMPOTENCY_KEY_REUSED")
        assert len(list((tmp_path / "objects/acme/inputs").iterdir())) == 1
        await world.sweep()
        await until_async(lambda: not world.gateway.hints._expected._engine_of)


async def fill_queue(world: GatewayWorld, tenant: str) -> int:
    """Submit to the shared engine until that is refused; return how many jobs were accepted."""
    accepted = 0
    while (answer := await post(world, tenant)).status_code == 202:
        accepted += 1
    assert refused(answer, QueueFull.code) == 5
    assert "its own share" in answer.json()["detail"]
    return accepted


async def test_one_tenant_leaves_room_in_a_shared_queue_to_every_newcomer(tmp_path: Path) -> None:
    cards = {STANDARD: {"max_queued_jobs": 24}}
    async with gateway_world(tmp_path, cards=cards, window_min=2, window_factor=1) as world:
        world.runners[STANDARD].answer = lose
        # Alone it gets half of the queue, and the two that the window takes.
        assert await fill_queue(world, "acme") == 2 + 12
        # The free half is shared out in the same way, also after a sweep has counted what waits.
        await world.sweep()
        assert await fill_queue(world, "umbra") == 6
        assert world.gateway.dispatcher.backlog.of(STANDARD) == 18
        problem_of(await post(world), 429, QueueFull.code)


async def test_what_comes_while_a_sweep_counts_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_world(tmp_path, window_min=2, window_factor=1) as world:
        world.runners[STANDARD].answer = lose
        backlog, read = world.gateway.dispatcher.backlog, world.gateway.ledger.read
        limits = world.gateway.jobs.submitter._limits
        await world.sweep()

        async def slowly(query: Any, *arguments: Any) -> Any:
            counted = await read(query, *arguments)
            if query is of_tenants:
                assert (await post(world)).status_code == 202
            return counted

        monkeypatch.setattr(world.gateway.ledger, "read", slowly)
        for sweeps in (1, 2, 3):
            assert (await post(world)).status_code == 202
            await world.sweep()
            assert (backlog.of_tenant(STANDARD, "acme"), limits.in_flight["acme"]) == (2 * sweeps - 2, 2 * sweeps)


async def test_the_owner_of_an_engine_has_its_whole_queue(tmp_path: Path) -> None:
    cards = {ECHO: {"max_queued_jobs": 8}}
    async with gateway_world(tmp_path, cards=cards, window_min=2, window_factor=1) as world:
        world.runner.answer = lose
        for number in range(2 + 8):
            await world.submit(number)
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1})
        refused(answer, QueueFull.code)
        assert "8 jobs waiting, its limit" in answer.json()["detail"]


async def test_a_batch_cannot_take_more_than_a_share_of_a_shared_queue(tmp_path: Path) -> None:
    cards = {STANDARD: {"max_queued_jobs": 40}}
    async with gateway_world(tmp_path, cards=cards, window_min=4, window_factor=1) as world:
        world.runners[STANDARD].answer = lose
        await world.sweep()  # Now the sweep at the start of the gateway has counted.
        told = refusals(await world.client("umbra").post(BATCH, json=batch(200, "standard")))
        assert {item["code"] for item in told} == {"QUEUE_FULL"}
        assert 20 <= 200 - len(told) <= 20 + 4
        assert (await post(world)).status_code == 202


@pytest.mark.parametrize("window", [4, 32])
async def test_ten_thousand_urgent_jobs_of_one_tenant_delay_anothers_by_one_window_at_most(
    tmp_path: Path, window: int
) -> None:
    async with gateway_world(tmp_path, window_min=window, window_factor=1) as world:
        flood = [new_job("umbra", STANDARD, window=0, priority=9) for _ in range(10_000)]
        await asyncio.gather(*(world.gateway.ledger.insert(job) for job in flood))
        runner = world.runners[STANDARD]
        enough = asyncio.Event()

        async def work(made: Any, event: HandedJob) -> bool:
            return True if enough.is_set() else await succeed(made, event)

        runner.answer = work
        await world.sweep()
        await until_async(lambda: len(runner.events) > window)
        job_id = await world.submit(engine="standard")
        began = len(runner.events)
        await world.delivered(job_id, engine=STANDARD)
        before_it = [event.id for event in runner.events].index(job_id) - began
        assert (await world.job(job_id, wait=5))["status"] == "succeeded"
        enough.set()
        assert before_it <= window


async def test_an_operators_weight_of_a_tenant_reaches_the_queue_and_the_runner(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, window_min=4, window_factor=1) as world:
        limit(tmp_path, world, "umbra", weight=3)
        runner = world.runners[STANDARD]
        runner.answer = lose
        for tenant in ("acme", "umbra"):
            for _ in range(8):
                await world.gateway.ledger.insert(new_job(tenant, STANDARD, window=0))
        await world.sweep()
        await until_async(lambda: len(runner.events) == 4)
        assert sorted((event.tenantid, event.data.weight) for event in runner.events) == [
            ("acme", 1.0),
            *[("umbra", 3.0)] * 3,
        ]
