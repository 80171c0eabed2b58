"""Jobs that wait together go out in one call, and each is settled by itself."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.break_ins import attempt
from tests.support.clocks import Clocks
from tests.support.runner import STORE, TinyEngine, World, batch_openapi, echo_batch, patient_batch, runner_world
from tests.support.steps import records_of, wait_in_line
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import JOBS_AT_ONCE_MAX, Batch, EngineSpec
from enginehouse.contracts.job import JobRecord, Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path, concurrency=1, batch=patient_batch(4)) as made:
        yield made


async def run_all(world: World, *jobs: dict[str, Any]) -> list[JobRecord]:
    return await asyncio.gather(*(world.run(**job) for job in jobs))


def inputs(*values: Any, **options: Any) -> list[dict[str, Any]]:
    return [{"data": value, **options} for value in values]


async def test_jobs_that_wait_together_make_one_call_and_get_their_own_answers(world: World) -> None:
    records = await run_all(world, *inputs(*range(8)))
    assert [record.output for record in records] == list(range(8))
    assert [len(batch["data"]) for batch in world.engine.batches] == [4, 4]
    assert world.engine.calls == []
    assert len({job for batch in world.engine.batches for job in batch["ids"]}) == 8
    assert b"enginehouse_runner_batch_jobs_count 2.0" in world.runner.metrics.text()


async def test_one_alone_is_an_ordinary_call_after_the_delay(tmp_path: Path) -> None:
    async with runner_world(tmp_path, batch=Batch(max_size=4, max_delay_ms=1)) as world:
        assert (await world.run()).status is Status.SUCCEEDED
        assert (len(world.engine.calls), world.engine.batches) == (1, [])


async def test_while_all_calls_are_out_the_next_batch_grows(world: World) -> None:
    gate = asyncio.Event()

    async def held(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return await echo_batch(request)

    world.engine.predict_batch = held
    first = asyncio.create_task(run_all(world, *inputs(*range(4))))
    await until_async(lambda: len(world.engine.batches) == 1)
    # Every place of the pool is taken by the first four; only one call is out at a time.
    rest = asyncio.create_task(run_all(world, *inputs(*range(4))))
    gate.set()
    await asyncio.gather(first, rest)
    assert [len(batch["data"]) for batch in world.engine.batches] == [4, 4]


async def test_other_parameters_or_another_clock_never_share_a_call(tmp_path: Path) -> None:
    jobs = [
        *inputs(1, 2, parameters={"lang": "en"}),
        *inputs(3, 4, parameters={"lang": "de"}),
        *inputs(5, 6, seconds=7),
        *inputs(7, 8),
    ]
    async with runner_world(tmp_path, concurrency=4, batch=patient_batch(2)) as wide:
        await run_all(wide, *jobs)
        seen = sorted((batch["data"], batch.get("parameters")) for batch in wide.engine.batches)
    assert seen == [([1, 2], {"lang": "en"}), ([3, 4], {"lang": "de"}), ([5, 6], None), ([7, 8], None)]


async def test_an_engine_whose_batch_takes_no_parameters_gets_such_jobs_one_by_one(tmp_path: Path) -> None:
    engine = TinyEngine()
    engine.openapi = batch_openapi(data={})
    await engine.start()
    async with runner_world(tmp_path, engine=engine, batch=patient_batch(2)) as world:
        await run_all(world, *inputs(1, 2, parameters={"lang": "en"}))
        assert [call["parameters"] for call in engine.calls] == [{"lang": "en"}] * 2
        await run_all(world, *inputs(1, 2))
        assert len(engine.batches) == 1
    await engine.stop()


async def test_an_engine_that_does_not_offer_it_gets_no_batches(tmp_path: Path) -> None:
    engine = TinyEngine()
    await engine.start()
    async with runner_world(tmp_path, engine=engine, batch=patient_batch(8)) as world:
        await run_all(world, *inputs(1, 2, 3))
        assert (len(engine.calls), engine.batches) == (3, [])
        await world.runner.heartbeats.beat()
        beat = await world.sidecar.read(STORE, names.worker_key("worker-1"))
        assert beat is not None
        assert b"offers no POST /predict/batch" in beat.value
    await engine.stop()


async def test_each_item_ends_as_its_own_answer_says(world: World) -> None:
    answers = [
        {"result": 1},
        {"error": {"message": "too blurry", "retryable": False}},
        {"error": {"message": "no memory", "retryable": True}},
        {"nonsense": 1},
    ]
    world.engine.predict_batch = lambda _: _json({"results": answers})
    fine, bad, failed, nonsense = await run_all(world, *inputs(*range(4)))
    assert fine.output == 1
    assert (bad.status, bad.error and bad.error.code) == (Status.FAILED, "INVALID_INPUT")
    assert (failed.status, failed.attempt) == (Status.QUEUED, 1)
    assert (nonsense.status, nonsense.error and nonsense.error.code) == (Status.FAILED, "MALFORMED_ANSWER")


@attempt("answers a batch with others' ids", layer="the answers of a batch are told apart by their places")
async def test_ids_in_the_answers_of_a_batch_say_nothing(world: World) -> None:
    jobs, stranger = [names.new_job_id() for _ in range(4)], names.new_job_id()

    async def exchanged(request: web.Request) -> web.StreamResponse:
        batch = await request.json()
        ids = [stranger, *batch["ids"][1:][::-1]]
        return await _json(
            {"ids": ids, "results": [{"id": i, "result": v} for i, v in zip(ids, batch["data"], strict=True)]}
        )

    world.engine.predict_batch = exchanged
    events = [world.event(job, number) for number, job in enumerate(jobs)]
    await asyncio.gather(*(world.runner.receiver.deliver(event) for event in events))
    assert [world.record(job).output for job in jobs] == [0, 1, 2, 3]
    assert world.find(stranger) is None


async def _json(body: Any, status: int = 200) -> web.StreamResponse:
    return web.Response(text=json.dumps(body), status=status, content_type="application/json")


async def test_a_call_that_fails_is_a_failed_attempt_of_each_and_the_next_go_alone(world: World) -> None:
    world.engine.predict_batch = lambda _: _json({"error": "died"}, 500)
    jobs = [names.new_job_id() for _ in range(4)]
    await asyncio.gather(*(world.runner.receiver.deliver(world.event(job)) for job in jobs))
    assert [(world.record(job).status, world.record(job).attempt) for job in jobs] == [(Status.QUEUED, 1)] * 4
    await asyncio.gather(*(world.runner.receiver.deliver(world.event(job, attempt=2)) for job in jobs))
    assert [world.record(job).status for job in jobs] == [Status.SUCCEEDED] * 4
    assert (len(world.engine.batches), len(world.engine.calls)) == (1, 4)


@pytest.mark.parametrize(
    ("body", "status"),
    [({"detail": "no"}, 422), ({"results": [{"result": 1}]}, 200), ({"results": [{"result": "x" * 3_000}] * 4}, 200)],
    ids=["rejected", "too few", "too much"],
)
async def test_no_job_ends_by_an_answer_to_the_whole_batch(tmp_path: Path, body: Any, status: int) -> None:
    batch = patient_batch(4)
    async with runner_world(tmp_path, batch=batch, predict_max_bytes=8_192, output_max_bytes=4_096) as world:
        world.engine.predict_batch = lambda _: _json(body, status)
        records = await run_all(world, *inputs(*range(4)))
        assert [record.output for record in records] == list(range(4))
        assert (len(world.engine.batches), len(world.engine.calls)) == (1, 4)


async def test_a_result_too_large_fails_alone(tmp_path: Path) -> None:
    async with runner_world(
        tmp_path, batch=patient_batch(2), output_max_bytes=4_096, predict_max_bytes=65_536
    ) as world:
        small, large = await run_all(world, *inputs("x", "x" * 5_000))
        assert small.output == "x"
        assert large.error is not None
        assert large.error.code == "OUTPUT_TOO_LARGE"


async def test_the_clock_of_a_job_is_that_of_its_call(tmp_path: Path) -> None:
    async def hangs(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with runner_world(tmp_path, concurrency=1, batch=patient_batch(2)) as world:
        world.engine.predict_batch = hangs
        records = await run_all(world, *inputs(1, 2, seconds=0.2))
        assert {record.status for record in records} == {Status.TIMED_OUT}
        assert all(record.predict_time is not None and 0.19 < record.predict_time < 5 for record in records)


async def test_a_job_that_waits_for_a_call_uses_up_none_of_its_time(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def held(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.json_response({"result": 1})

    async with runner_world(tmp_path, concurrency=1, batch=Batch(max_size=2, max_delay_ms=0)) as world:
        world.engine.predict = held
        first = asyncio.create_task(world.run(1))
        await until_async(lambda: world.engine.calls)
        waiting = asyncio.create_task(world.run(2))
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
        began = time.monotonic()
        gate.set()
        assert (await first).status is Status.SUCCEEDED
        record = await waiting
        assert record.status is Status.SUCCEEDED
        assert record.predict_time is not None
        assert record.predict_time <= time.monotonic() - began


async def test_a_canceled_job_leaves_its_batch_and_the_others_go_on(world: World) -> None:
    gate = asyncio.Event()

    async def held(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return await echo_batch(request)

    world.engine.predict_batch = held
    jobs = [names.new_job_id() for _ in range(4)]
    deliveries = [asyncio.create_task(world.runner.receiver.deliver(world.event(job))) for job in jobs]
    await asyncio.gather(*(world.running(job) for job in jobs))
    await world.write(jobs[0], world.record(jobs[0]).model_copy(update={"status": Status.CANCELED}))
    assert await deliveries[0]
    gate.set()
    assert all(await asyncio.gather(*deliveries))
    statuses = [world.record(job).status for job in jobs]
    assert statuses == [Status.CANCELED, *[Status.SUCCEEDED] * 3]
    await until_async(lambda: world.runner.pool.replicas[0].places_taken == 0)


async def test_a_call_that_nobody_waits_for_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    closed = asyncio.Event()

    async def held(_: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()
        raise AssertionError

    world.engine.predict_batch = held
    running = asyncio.create_task(run_all(world, *inputs(*range(4))))
    await until_async(lambda: world.engine.batches)
    clocks.run_out()
    records = await running
    assert {record.status for record in records} == {Status.TIMED_OUT}
    await asyncio.wait_for(closed.wait(), 20)


async def test_what_has_not_gone_out_goes_back_when_the_worker_stops(tmp_path: Path) -> None:
    async with runner_world(tmp_path, concurrency=1, batch=patient_batch(8)) as world:
        tasks = await wait_in_line(world, "acme", 3)
        await world.runner.drain()
        # Only now: a worker that leaves acknowledges what it has claimed before that has gone back.
        assert all(await asyncio.gather(*tasks))
        records = records_of(world, tasks)
        assert {(record.status, record.attempt) for record in records} == {(Status.QUEUED, 0)}
        assert world.engine.batches == []


async def test_an_engine_that_cannot_be_reached_burns_no_attempt(world: World) -> None:
    await world.engine.stop()
    records = await run_all(world, *inputs(*range(4)))
    assert {(record.status, record.attempt) for record in records} == {(Status.QUEUED, 0)}


def test_a_replica_has_room_for_a_batch_in_each_place_within_bounds() -> None:
    def at_once(concurrency: int, max_size: int) -> int:
        return EngineSpec(
            tenant="acme", name="echo", concurrency=concurrency, batch=Batch(max_size=max_size)
        ).jobs_at_once

    assert (at_once(4, 1), at_once(4, 16), at_once(1, 8)) == (4, 64, 8)
    assert at_once(256, 256) == JOBS_AT_ONCE_MAX
