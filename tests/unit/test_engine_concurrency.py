"""Predictions that run at the same time: threads, cancelling, and the number in work."""

import asyncio
import contextlib
import threading

import pytest
from tests.support.engine import running
from tests.support.waiting import until_async

from enginehouse.engine import Engine
from enginehouse.engine.host import EngineHost, HostPace


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


async def test_the_concurrency_comes_from_the_environment_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_CONCURRENCY", "1")
    gate = threading.Event()
    threads: set[int] = set()

    class Counting(Engine):
        concurrency = 8

        def predict(self, data: int) -> None:
            threads.add(threading.get_ident())
            assert gate.wait(30)

    async with running(Counting) as (client, _):
        asked = [asyncio.create_task(client.post("/predict", json={"data": n})) for n in range(8)]
        await until_async(lambda: threads)
        for _ in range(20):  # Each call is a round through the event loop, so all eight are in the pool afterwards.
            await client.get("/healthz")
        gate.set()
        await asyncio.gather(*asked)
    assert len(threads) == 1


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
        assert (await client.get("/healthz")).json() == {"status": "ok", "in_hand": 4}
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
