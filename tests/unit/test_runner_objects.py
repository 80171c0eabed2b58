"""Large inputs and outputs by signed URL, and an object store that is away, forgetful, or slow to recover."""

import asyncio
import base64
import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.runner import PORTS, World, runner_world
from tests.support.stalls import LONGEST_STALL_SECONDS, watched_loop
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.events import JobObjects
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.runner.outcome import Rejected
from enginehouse.runner.pace import Pace


class Store:
    """A small object store; signed URLs are just URLs."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refuse_with: list[int] = []
        self.headers: list[Any] = []
        self.refuses_other_with = 409
        self.loses_answers = 0
        """After so many PUTs the connection breaks before the answer."""
        self.gate: asyncio.Event | None = None
        """If set, the store answers only after it."""
        self.port = PORTS.take()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(request.headers.copy())
        key = request.match_info["key"]
        if self.gate is not None:
            await self.gate.wait()
        if self.refuse_with:
            return web.Response(status=self.refuse_with.pop(0))
        if request.method == "PUT":
            body = await request.read()
            if self.objects.setdefault(key, body) != body:
                return web.Response(status=self.refuses_other_with)
            if self.loses_answers:
                self.loses_answers -= 1
                assert request.transport is not None
                request.transport.abort()
            return web.Response(status=201)
        if key not in self.objects:
            return web.Response(status=404)
        return web.Response(body=self.objects[key])

    def of_job(self, *, input_key: str | None = None, is_json: bool = True, max_bytes: int = 50_000_000) -> JobObjects:
        """Return the objects of a job."""
        url = f"http://127.0.0.1:{self.port}"
        return JobObjects(
            input_url=f"{url}/{input_key}" if input_key else None,
            input_is_json=is_json,
            output_url=f"{url}/out",
            output_ref="acme/outputs/out.json",
            max_bytes=max_bytes,
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    made = Store()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{key}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", made.port).start()
    yield made
    await runner.cleanup()


def error_of(record: JobRecord) -> str:
    assert record.error is not None
    return record.error.code


async def length(request: web.Request) -> web.StreamResponse:
    return web.json_response({"result": len((await request.json())["data"])})


async def large(_: web.Request) -> web.StreamResponse:
    return web.json_response({"result": "x" * 2_000_000})


async def test_a_large_input_reaches_the_engine_as_it_is(world: World, store: Store) -> None:
    world.engine.predict = length
    store.objects["in"] = json.dumps(["ä", None, 1.5] * 500_000).encode()
    record = await world.run(None, objects=store.of_job(input_key="in"), parameters={"a": 1})
    assert record.output == 1_500_000
    assert world.engine.calls[0]["parameters"] == {"a": 1}
    assert set(world.engine.calls[0]) == {"id", "data", "parameters"}


async def test_a_job_canceled_while_its_input_is_fetched_does_not_reach_its_engine(world: World, store: Store) -> None:
    store.objects["in"], store.gate = b"1", asyncio.Event()
    job_id = names.new_job_id()
    body = world.event(job_id, None, objects=store.of_job(input_key="in"))
    delivery = asyncio.create_task(world.runner.receiver.deliver(body))
    await until_async(lambda: store.headers)
    await world.write(job_id, JobRecord(status=Status.CANCELED, finished_at=now()))
    store.gate.set()
    assert await delivery
    assert world.engine.calls == []
    assert world.record(job_id).status is Status.CANCELED
    assert world.runner.pool.replicas[0].places_taken == 0


async def test_a_record_that_cannot_be_read_after_the_fetch_leaves_the_job_to_another_delivery(
    world: World, store: Store
) -> None:
    store.objects["in"] = b"1"
    job_id = names.new_job_id()
    world.dapr.fail("read", on=job_id)
    body = world.event(job_id, None, objects=store.of_job(input_key="in"))
    assert not await world.runner.receiver.deliver(body)
    assert world.runner.pool.replicas[0].places_taken == 0
    assert await world.runner.receiver.deliver(body)
    assert world.record(job_id).status is Status.SUCCEEDED


async def test_an_input_that_is_not_json_comes_as_base64(world: World, store: Store) -> None:
    store.objects["in"] = b"\x89PNG\x00\xff"
    record = await world.run(None, objects=store.of_job(input_key="in", is_json=False))
    assert record.output == base64.b64encode(store.objects["in"]).decode()


@pytest.mark.parametrize("body", [b"{", b'1, "id": "other"', b"NaN", b"[" * 100_000, b""])
async def test_an_upload_that_is_not_json_is_the_callers_mistake(world: World, store: Store, body: bytes) -> None:
    store.objects["in"] = body
    record = await world.run(None, objects=store.of_job(input_key="in"))
    assert (record.status, error_of(record)) == (Status.FAILED, "INVALID_INPUT")
    assert world.engine.calls == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": [{"text": "\\ud800"}]}', "input.a[0].text: JSON cannot hold a lone surrogate"),
        (b'{"a": NaN}', "input.a: JSON cannot hold NaN"),
        (b'{"a": 1e400}', "input.a: JSON cannot hold Infinity, or a number this large"),
        (b'{"a": tru}', "line 1 column 10"),
        (b'{"a": ' + b"9" * 400 + b"}", "input.a: JSON cannot hold an integer this large"),
        (b"[" * 129 + b"]" * 129, "input: it is nested deeper than 128 levels"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (gzip.compress(b'{"a": 1}', mtime=0), "compressed by gzip"),
    ],
)
async def test_an_upload_is_refused_in_the_words_in_which_a_body_is(
    world: World, store: Store, body: bytes, says: str
) -> None:
    store.objects["in"] = body
    record = await world.run(None, objects=store.of_job(input_key="in"))
    assert record.error is not None
    assert (record.error.code, record.error.retryable) == ("INVALID_INPUT", False)
    assert says in record.error.message
    assert world.engine.calls == []


async def test_the_byte_order_mark_of_an_upload_does_not_reach_the_engine(world: World, store: Store) -> None:
    store.objects["in"] = b'\xef\xbb\xbf{"a": "\\u0000"}'
    assert (await world.run(None, objects=store.of_job(input_key="in"))).output == {"a": "\x00"}


async def test_an_input_larger_than_allowed_is_not_read_on(world: World, store: Store) -> None:
    store.objects["in"] = b'"' + b"x" * 1_000_000 + b'"'
    record = await world.run(None, objects=store.of_job(input_key="in", max_bytes=10_000))
    assert (record.status, error_of(record)) == (Status.FAILED, "INVALID_INPUT")


async def test_an_input_that_is_gone_fails_the_job(world: World, store: Store) -> None:
    record = await world.run(None, objects=store.of_job(input_key="nothing"))
    assert (record.status, error_of(record)) == (Status.FAILED, "INPUT_UNAVAILABLE")
    assert world.runner.pool.replicas[0].places_taken == 0


async def test_a_store_that_is_away_burns_no_attempt(world: World, store: Store) -> None:
    store.objects["in"] = b"1"
    store.refuse_with = [503]
    record = await world.run(None, objects=store.of_job(input_key="in"))
    assert (record.status, record.attempt) == (Status.QUEUED, 0)
    objects = store.of_job(input_key="in").model_copy(update={"input_url": f"http://127.0.0.1:{PORTS.take()}/in"})
    record = await world.run(None, objects=objects)
    assert (record.status, record.attempt) == (Status.QUEUED, 0)
    assert world.runner.pool.replicas[0].places_taken == 0


async def test_a_large_output_goes_by_reference(world: World, store: Store) -> None:
    world.engine.predict = large
    record = await world.run(objects=store.of_job())
    assert (record.status, record.output, record.output_ref) == (Status.SUCCEEDED, None, "acme/outputs/out.json")
    assert json.loads(store.objects["out"]) == "x" * 2_000_000


async def test_a_small_output_stays_in_the_record(world: World, store: Store) -> None:
    record = await world.run("small", objects=store.of_job())
    assert (record.output, record.output_ref) == ("small", None)
    assert store.headers == []


async def test_an_output_is_stored_as_soon_as_the_store_is_back(world: World, store: Store) -> None:
    world.engine.predict = large
    store.refuse_with = [503, 500]
    record = await world.run(objects=store.of_job())
    assert record.output_ref is not None
    assert len(world.engine.calls) == 1


async def test_an_output_that_fits_the_record_does_not_wait_for_the_store(world: World, store: Store) -> None:
    store.refuse_with = [503] * 10
    record = await world.run("y" * 100_000, objects=store.of_job())
    assert (record.output, record.output_ref) == ("y" * 100_000, None)


async def test_an_output_that_cannot_be_stored_is_a_failed_attempt(tmp_path: Path, store: Store) -> None:
    async with runner_world(tmp_path, pace=Pace(output_store_tries=2)) as world:
        world.engine.predict = large
        store.refuse_with = [503] * 10
        record = await world.run(objects=store.of_job())
        assert (record.status, error_of(record)) == (Status.QUEUED, "PREDICT_ERROR")


async def test_an_output_beyond_what_is_ever_read(world: World, store: Store) -> None:
    async def predict(_: web.Request) -> web.StreamResponse:
        return web.json_response({"result": "x" * 9_000_000})

    world.engine.predict = predict
    record = await world.run(objects=store.of_job())
    assert (record.status, error_of(record)) == (Status.FAILED, "OUTPUT_TOO_LARGE")
    assert "at most 8388608" in (record.error.message if record.error else "")


async def test_an_output_whose_answer_was_lost_is_sent_again(world: World, store: Store) -> None:
    world.engine.predict = large
    store.loses_answers = 1
    record = await world.run(objects=store.of_job())
    assert (record.status, record.output_ref) == (Status.SUCCEEDED, "acme/outputs/out.json")
    assert len(world.engine.calls) == 1


@pytest.mark.parametrize("status", [409, 412])
async def test_another_output_of_a_former_run_makes_a_new_hand_over(world: World, store: Store, status: int) -> None:
    world.engine.predict = large
    store.objects["out"], store.refuses_other_with = b"of a worker that died", status
    record = await world.run(objects=store.of_job())
    assert (record.status, record.attempt, record.error) == (Status.QUEUED, 0, None)
    assert store.objects["out"] == b"of a worker that died"
    renewed = store.of_job().model_copy(update={"output_url": f"http://127.0.0.1:{store.port}/out2"})
    assert (await world.run(objects=renewed)).status is Status.SUCCEEDED


async def test_the_same_output_of_a_former_run_is_as_good(world: World, store: Store) -> None:
    world.engine.predict = large
    store.objects["out"] = json.dumps("x" * 2_000_000).encode()
    assert (await world.run(objects=store.of_job())).output_ref is not None


async def test_a_refused_output_is_a_failed_attempt_at_once(world: World, store: Store) -> None:
    world.engine.predict = large
    store.refuse_with = [403]
    record = await world.run(objects=store.of_job())
    assert (record.status, record.attempt, error_of(record)) == (Status.QUEUED, 1, "PREDICT_ERROR")
    assert len(store.headers) == 1


@pytest.mark.parametrize("too_old", [True, False])
async def test_a_job_whose_urls_may_end_before_it_does_is_handed_back_for_new_ones(
    world: World, store: Store, too_old: bool
) -> None:
    seconds = 30.0
    objects = store.of_job().model_copy(update={"expires_at": time.time() + seconds + (-5 if too_old else 60)})
    record = await world.run("small", objects=objects, seconds=seconds)
    assert record.status is (Status.QUEUED if too_old else Status.SUCCEEDED)
    assert record.attempt == (0 if too_old else 1)
    assert len(world.engine.calls) == (0 if too_old else 1)


LISTS = b"[" + b"[]," * 2_000_000 + b"[]]"
"""6 MB that become two million lists when they are parsed."""


async def test_a_large_upload_is_checked_without_holding_up_other_jobs(world: World, store: Store) -> None:
    store.objects["in"] = b"\xef\xbb\xbf" + LISTS
    store.objects["broken"] = LISTS[:-1]
    with watched_loop() as longest:
        assert await world.runner.objects.fetch_input(store.of_job(input_key="in"), "acme") == LISTS
        broken = await world.runner.objects.fetch_input(store.of_job(input_key="broken"), "acme")
    assert isinstance(broken, Rejected)
    assert longest[0] < LONGEST_STALL_SECONDS


async def test_an_upload_that_is_too_costly_to_check_is_refused(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginehouse.runner.objects._CPU_SECONDS", 0.01)
    store.objects["in"] = LISTS
    record = await world.run(None, objects=store.of_job(input_key="in"))
    assert (record.status, error_of(record)) == (Status.FAILED, "INVALID_INPUT")
    assert "processor time" in (record.error.message if record.error else "")
    assert world.engine.calls == []


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
async def test_a_large_answer_is_read_without_holding_up_other_jobs(world: World, store: Store, kind: str) -> None:
    async def predict(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b'{"result":%s}' % LISTS, content_type=kind)

    world.engine.predict = predict
    with watched_loop() as longest:
        record = await world.run(objects=store.of_job())
    assert (record.status, record.output_ref) == (Status.SUCCEEDED, "acme/outputs/out.json")
    assert store.objects["out"] == LISTS
    assert longest[0] < LONGEST_STALL_SECONDS


async def test_a_large_answer_that_is_too_costly_to_read_cannot_be_used(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def predict(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b'{"result":%s}' % LISTS, content_type="application/json")

    monkeypatch.setattr("enginehouse.runner.clients.elsewhere._CPU_SECONDS", 0.01)
    world.engine.predict = predict
    record = await world.run(objects=store.of_job())
    assert (record.status, error_of(record)) == (Status.FAILED, "MALFORMED_ANSWER")
