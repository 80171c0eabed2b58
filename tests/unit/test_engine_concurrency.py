"""Predictions that run at the same time: threads, cancelling, and the number in work."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest
from tests.support.engine import running
from tests.support.waiting import until_async

from enginehouse.engine import Engine, Event, Log
from enginehouse.engine.host import EngineHost, HostPace
from enginehouse.engine.loop_watch import WatchPace


async def test_a_blocking_predict_holds_up_neither_the_event_loop_nor_other_predictions() -> None:
    gate = threading.Barrier(3, timeout=30)

    class Together(Engine):
        concurrency = 3

        def predict(self, data: int) -> int:
            gate.wait()
            return data

    async with running(Together) as (client, _):
        first = [asyncio.create_task(client.post("/predict", json={"data": n})) for n in range(2)]
        await until_async(lambda: gate.n_waiting == 2)
        assert (await client.get("/healthz")).status_code == 200
        answers = await asyncio.gather(*first, client.post("/predict", json={"data": 2}))
    assert [answer.json()["result"] for answer in answers] == [0, 1, 2]


@pytest.mark.parametrize(
    ("of_yaml", "of_class", "threads"), [(None, None, 4), (6, None, 6), (6, 2, 2), (2, 6, 2), (None, 6, 6)]
)
async def test_as_many_run_as_engine_yaml_says_and_no_more_than_the_class_allows(
    monkeypatch: pytest.MonkeyPatch, of_yaml: int | None, of_class: int | None, threads: int
) -> None:
    if of_yaml:
        monkeypatch.setenv("ENGINE_CONCURRENCY", str(of_yaml))
    gate = threading.Barrier(threads, timeout=30)

    class Counting(Engine):
        concurrency = of_class

        def predict(self, data: int) -> None:
            gate.wait()

    async with running(Counting) as (client, host):
        assert host.concurrency == (await client.get("/healthz")).json()["concurrency"] == threads
        answers = await asyncio.gather(*(client.post("/predict", json={"data": n}) for n in range(threads)))
    assert [answer.status_code for answer in answers] == [200] * threads


async def test_cancel_ends_a_running_async_prediction_and_only_that() -> None:
    started = asyncio.Event()

    class Waits(Engine):
        async def predict(self, data: int) -> int:
            started.set()
            if data:
                await asyncio.Event().wait()
            return data

    async with running(Waits) as (client, _):
        assert (await client.post("/predict/j1/cancel")).status_code == 404
        waiting = asyncio.create_task(client.post("/predict", json={"data": 1, "id": "j1"}))
        await started.wait()
        assert (await client.post("/predict", json={"data": 0, "id": "j2"})).json() == {"result": 0}
        assert (await client.post("/predict/j1/cancel")).status_code == 202
        answer = await waiting
        assert (answer.status_code, answer.json()["error"]["message"]) == (409, "canceled")
        assert (await client.post("/predict/j1/cancel")).status_code == 404


async def test_health_tells_how_many_inputs_are_being_worked_on_whoever_waits_for_them() -> None:
    gate = threading.Event()

    class Blocks(Engine):
        def predict(self, data: int) -> int:
            assert gate.wait(30)
            return data

        def predict_batch(self, data: list[int]) -> list[int]:
            assert gate.wait(30)
            return data

    async with running(Blocks) as (client, host):
        asked = [
            asyncio.create_task(client.post("/predict", json={"data": 1})),
            asyncio.create_task(client.post("/predict/batch", json={"data": [1, 2, 3]})),
        ]
        await until_async(lambda: host.in_hand >= 4)
        assert (await client.get("/healthz")).json() == {"status": "ok", "in_hand": 4, "abandoned": 0, "concurrency": 4}
        gate.set()
        await asyncio.gather(*asked)
        assert (await client.get("/healthz")).json()["in_hand"] == 0


async def test_a_prediction_that_does_not_stop_is_not_said_to_have_stopped() -> None:
    started, gate = asyncio.Event(), asyncio.Event()

    class Stubborn(Engine):
        async def predict(self, data: int) -> int:
            started.set()
            while not gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await gate.wait()
            return data

    async with running(Stubborn, pace=HostPace(cancel_seconds=0.05)) as (client, _):
        waiting = asyncio.create_task(client.post("/predict", json={"data": 1, "id": "j1"}))
        await started.wait()
        answer = await client.post("/predict/j1/cancel")
        assert (answer.status_code, answer.json()["error"]["message"]) == (409, "it has not stopped yet")
        gate.set()
        assert (await waiting).status_code == 200


def test_the_former_variable_of_concurrency_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_SLOTS", "4")
    with pytest.raises(ValueError, match="ENGINE_SLOTS is called ENGINE_CONCURRENCY now"):
        EngineHost(type("Any", (Engine,), {"predict": lambda self, data: data}))


class Blocks(Engine):
    """Blocks its one thread while its input says so."""

    concurrency = 1
    gate: threading.Event
    threads: list[int]

    def load(self) -> None:
        self.gate, self.threads = threading.Event(), []

    def predict(self, data: bool) -> bool:
        self.threads.append(threading.get_ident())
        if data:
            assert self.gate.wait(30)
        return data

    def predict_batch(self, data: list[bool]) -> list[bool]:
        return [self.predict(item) for item in data]


async def begun(host: EngineHost, client: httpx2.AsyncClient, job_id: str) -> "asyncio.Task[httpx2.Response]":
    """Send a job that blocks, and wait until it does."""
    before = len(host.engine.threads)  # type: ignore[attr-defined]
    asked = asyncio.create_task(client.post("/predict", json={"data": True, "id": job_id}))
    await until_async(lambda: len(host.engine.threads) > before and job_id in host._running)  # type: ignore[attr-defined]
    return asked


async def counts(client: httpx2.AsyncClient) -> tuple[int, int]:
    said = (await client.get("/healthz")).json()
    return said["in_hand"], said["abandoned"]


async def test_a_thread_whose_caller_has_gone_is_replaced_at_once() -> None:
    async with running(Blocks) as (client, host):
        asked = await begun(host, client, "j1")
        assert await counts(client) == (1, 0)
        assert (await client.post("/predict/j1/cancel")).status_code == 202
        assert (await asked).status_code == 409
        assert await counts(client) == (0, 1)
        assert (await client.post("/predict", json={"data": False})).json() == {"result": False}
        host.engine.gate.set()  # type: ignore[attr-defined]
        await until_async(lambda: host.abandoned == 0)
        for _ in range(5):
            await client.post("/predict", json={"data": False})
        assert len(set(host.engine.threads)) == 2, "the abandoned thread works no more"  # type: ignore[attr-defined]


async def test_no_more_threads_are_abandoned_than_there_are() -> None:
    async with running(Blocks) as (client, host):
        first = await begun(host, client, "j1")
        await client.post("/predict/j1/cancel")
        second = await begun(host, client, "j2")
        assert (await client.post("/predict/j2/cancel")).status_code == 409
        assert await counts(client) == (1, 1)
        host.engine.gate.set()  # type: ignore[attr-defined]
        assert ((await first).status_code, (await second).json()) == (409, {"result": True})
        await until_async(lambda: host.abandoned == 0)


async def test_a_job_that_is_sent_again_after_it_was_abandoned_is_another() -> None:
    async with running(Blocks) as (client, host):
        await begun(host, client, "j1")
        await client.post("/predict/j1/cancel")
        again = await begun(host, client, "j1")
        host.engine.gate.set()  # type: ignore[attr-defined]
        assert (await again).json() == {"result": True}
        assert host._running == {}


async def test_the_thread_of_a_batch_is_replaced_when_all_its_jobs_were_canceled() -> None:
    async with running(Blocks) as (client, host):
        body = {"data": [True, True], "ids": ["j1", "j2"]}
        asked = asyncio.create_task(client.post("/predict/batch", json=body))
        await until_async(lambda: host.engine.threads and "j2" in host._running)  # type: ignore[attr-defined]
        assert (await client.post("/predict/j1/cancel")).status_code == 409
        assert await counts(client) == (2, 0)
        assert (await client.post("/predict/j2/cancel")).status_code == 202
        assert (await asked).status_code == 409
        assert await counts(client) == (0, 1)
        host.engine.gate.set()  # type: ignore[attr-defined]
        await until_async(lambda: host.abandoned == 0)


async def test_a_job_that_was_canceled_while_it_waited_for_a_thread_never_runs() -> None:
    async with running(Blocks) as (client, host):
        first = await begun(host, client, "j1")
        waiting = asyncio.create_task(client.post("/predict", json={"data": True, "id": "j2"}))
        await until_async(lambda: host.in_hand == 2)
        assert (await client.post("/predict/j2/cancel")).status_code == 404
        host.engine.gate.set()  # type: ignore[attr-defined]
        assert ((await first).status_code, (await waiting).status_code) == (200, 409)
        assert len(host.engine.threads) == 1  # type: ignore[attr-defined]
        assert (await client.post("/predict", json={"data": True, "id": "j2"})).status_code == 200, "it is sent again"


async def test_a_step_that_never_comes_is_abandoned_like_any_other() -> None:
    gate, entered = threading.Event(), threading.Event()

    class Steps(Engine):
        concurrency = 1

        def predict(self, data: bool) -> Iterator[Event | bool]:
            yield Log("begun")
            if data:
                entered.set()
                assert gate.wait(30)
            yield data

    async with running(Steps, pace=HostPace(cancel_seconds=0.05)) as (client, host):
        asked = asyncio.create_task(client.post("/predict", json={"data": True, "id": "j1"}))
        await until_async(entered.is_set)
        assert (await client.post("/predict/j1/cancel")).status_code == 202
        assert b"canceled" in (await asked).content
        assert b'{"result":false}' in (await client.post("/predict", json={"data": False})).content
        gate.set()
        await until_async(lambda: host.abandoned == 0)


WATCHFUL = HostPace(watch=WatchPace(tick_seconds=0.01, blocked_seconds=0.05))


async def ask_twice(engine: type[Engine]) -> httpx2.Response:
    """Ask for two predictions at once, and return the health check's answer after them."""
    async with running(engine, pace=WATCHFUL) as (client, _):
        await asyncio.gather(*(client.post("/predict", json={"data": 0.3}) for _ in range(2)))
        return await client.get("/healthz")


async def test_an_async_predict_that_blocks_the_event_loop_is_named_with_its_line() -> None:
    class BlocksLoop(Engine):
        async def predict(self, data: float) -> None:
            time.sleep(data)  # noqa: ASYNC251

    said = (await ask_twice(BlocksLoop)).headers["x-engine-warning"]
    assert said.startswith("predict is `async` but blocks the event loop (0.")
    line = BlocksLoop.predict.__code__.co_firstlineno + 1
    assert said.endswith(f" s at test_engine_concurrency.py:{line}); make it a plain `def`, or await")


async def test_a_predict_that_awaits_or_runs_in_a_thread_blocks_nothing() -> None:
    class Awaits(Engine):
        async def predict(self, data: float) -> None:
            await asyncio.sleep(data)

    class InThread(Engine):
        def predict(self, data: float) -> None:
            time.sleep(data)

    for engine in (Awaits, InThread):
        assert "x-engine-warning" not in (await ask_twice(engine)).headers


async def test_an_event_loop_that_something_else_holds_up_is_not_blamed_on_predict() -> None:
    class Awaits(Engine):
        async def predict(self, data: float) -> None:
            await asyncio.sleep(0)

    async with running(Awaits, pace=WATCHFUL) as (client, host):
        time.sleep(0.3)  # noqa: ASYNC251
        await client.post("/predict", json={"data": 0})
        assert host.warning is None
