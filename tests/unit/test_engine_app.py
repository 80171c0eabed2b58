"""An engine's HTTP side, asked through its real ASGI app: what goes in, what comes out, what is refused, and how."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx2
import pytest
from pydantic import BaseModel, Field

from enginehouse.engine import Engine, InvalidInput
from enginehouse.engine.app import EngineApp
from enginehouse.engine.host import EngineHost, Pace


@asynccontextmanager
async def running(
    engine: type[Engine],
    load: bool = True,
    pace: Pace = Pace(),  # noqa: B008
) -> AsyncIterator[tuple[httpx2.AsyncClient, EngineHost]]:
    host = EngineHost(engine, pace=pace)
    if load:
        await host.load()
        assert host.ready
    transport = httpx2.ASGITransport(app=EngineApp(host))
    async with httpx2.AsyncClient(transport=transport, base_url="http://engine") as client:
        yield client, host
    host.close()


class Point(BaseModel):
    x: Annotated[float, Field(ge=0)]
    label: str | None = None


class Options(BaseModel):
    times: int = 1


class Doubler(Engine):
    """Doubles x."""

    def predict(self, data: Point, parameters: Options | None = None) -> Point:
        times = parameters.times if parameters else 1
        return Point(x=data.x * 2**times, label=data.label)


async def test_a_result_has_the_declared_type() -> None:
    async with running(Doubler) as (client, _):
        answer = await client.post("/predict", json={"data": {"x": 2}, "id": "j1", "objects": {"new": "fields"}})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"result": {"x": 4.0, "label": None}}


async def test_parameters_reach_predict() -> None:
    async with running(Doubler) as (client, _):
        answer = await client.post("/predict", json={"data": {"x": 2}, "parameters": {"times": 3}})
        none = await client.post("/predict", json={"data": {"x": 2}, "parameters": None})
    assert answer.json()["result"]["x"] == 16.0
    assert none.json()["result"]["x"] == 4.0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"not json", "body: Invalid JSON"),
        (b"", "body: Invalid JSON"),
        (b"[]", "body: Input should be an object"),
        (b"{}", "data: Field required"),
        (b'{"data": {}}', "data.x: Field required"),
        (b'{"data": {"x": -1}}', "data.x: Input should be greater than or equal to 0"),
        (b'{"data": {"x": 1}, "id": 5}', "id: Input should be a valid string"),
        (b'{"data": {"x": 1}, "parameters": {"times": "many"}}', "parameters.times: Input should be a valid integer"),
    ],
)
async def test_bad_requests_are_refused_for_good_and_told_why(body: bytes, says: str) -> None:
    async with running(Doubler) as (client, _):
        answer = await client.post("/predict", content=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(says)
    assert answer.json()["error"]["retryable"] is False


async def test_predict_takes_only_post() -> None:
    async with running(Doubler) as (client, _):
        assert (await client.get("/predict")).status_code == 405
        assert (await client.post("/predict/batch")).status_code == 404
        assert (await client.post("/update")).status_code == 404


class Anything(Engine):
    def predict(self, data: Any) -> Any:
        return data


async def test_parameters_for_an_engine_without_are_an_error_and_not_ignored() -> None:
    async with running(Anything) as (client, _):
        refused = await client.post("/predict", json={"data": 1, "parameters": {"depth": 2}})
        empty = await client.post("/predict", json={"data": 1, "parameters": {}})
    assert refused.status_code == 422
    assert refused.json()["error"]["message"] == "parameters: this engine takes none"
    assert empty.json() == {"result": 1}


class Raising(Engine):
    def predict(self, data: str) -> str:
        errors: dict[str, BaseException] = {
            "reject": InvalidInput("too blurry"),
            "fail": KeyError("weights"),
            "stop": StopIteration(),
            "exit": SystemExit(3),
            "long": ValueError("x" * 10_000),
        }
        raise errors[data]


@pytest.mark.parametrize(
    ("data", "status", "message", "retryable"),
    [
        ("reject", 422, "too blurry", False),
        ("fail", 500, "KeyError: 'weights'", True),
        ("stop", 500, "StopIteration: ", True),
        ("exit", 500, "SystemExit: 3", True),
    ],
)
async def test_what_is_raised_becomes_a_status_and_never_a_trace(
    data: str, status: int, message: str, retryable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Raising) as (client, _):
        answer = await client.post("/predict", json={"data": data, "id": "j7"})
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": message, "retryable": retryable}}
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == (1 if status == 500 else 0)
    assert all("j7" in record.getMessage() for record in traces)


async def test_messages_are_cut() -> None:
    async with running(Raising) as (client, _):
        answer = await client.post("/predict", json={"data": "long"})
    assert len(answer.json()["error"]["message"]) == 2_000


class Score(BaseModel):
    value: float | None
    more: list[float] = []


class Scorer(Engine):
    async def predict(self, data: str) -> Score:
        return Score(value=float(data) if data else None, more=[float(data or 1)])


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
async def test_numbers_that_json_does_not_know_are_an_error(number: str) -> None:
    async with running(Scorer) as (client, _):
        answer = await client.post("/predict", json={"data": number})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == f"BadResult: the result holds {number}, which JSON does not know"


async def test_null_and_words_that_look_like_numbers_are_fine() -> None:
    async with running(Scorer) as (client, _):
        assert (await client.post("/predict", json={"data": ""})).json() == {"result": {"value": None, "more": [1.0]}}
    async with running(Anything) as (client, _):
        text = ["NaN", "Infinity", None, "null"]
        assert (await client.post("/predict", json={"data": text})).json() == {"result": text}


class Lying(Engine):
    async def predict(self, data: str) -> list[int]:
        return {"type": ["one"], "object": [object()], "ok": [1]}[data]  # type: ignore[return-value]


async def test_a_result_of_another_type_is_an_error() -> None:
    async with running(Lying) as (client, _):
        wrong = await client.post("/predict", json={"data": "type"})
        assert wrong.status_code == 500
        assert wrong.json()["error"]["message"].startswith("BadResult: the result is not of the declared type: 0:")
        assert (await client.post("/predict", json={"data": "object"})).status_code == 500
        assert (await client.post("/predict", json={"data": "ok"})).json() == {"result": [1]}


async def test_a_result_that_cannot_be_json_is_an_error() -> None:
    class Objects(Engine):
        def predict(self, data: str) -> Any:
            return object() if data == "object" else "\ud800"

    async with running(Objects) as (client, _):
        for data in ("object", "surrogate"):
            answer = await client.post("/predict", json={"data": data})
            assert answer.status_code == 500
            assert "cannot be written as JSON" in answer.json()["error"]["message"]


async def test_not_healthy_and_busy_until_loaded() -> None:
    async with running(Anything, load=False) as (client, host):
        assert (await client.get("/healthz")).status_code == 503
        busy = await client.post("/predict", json={"data": 1})
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        assert busy.json()["error"]["retryable"] is True
        await host.load()
        assert (await client.get("/healthz")).status_code == 200


async def test_a_blocking_predict_holds_up_neither_the_event_loop_nor_other_predictions() -> None:
    gate = threading.Barrier(3, timeout=30)

    class Together(Engine):
        concurrency = 3

        def predict(self, data: int) -> int:
            gate.wait()
            return data

    async with running(Together) as (client, _):
        first = [asyncio.create_task(client.post("/predict", json={"data": n})) for n in range(2)]
        while gate.n_waiting < 2:
            await asyncio.sleep(0.001)
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
        while not threads:
            await asyncio.sleep(0.001)
        for _ in range(20):  # Each a round through the event loop, so all eight have been given to the pool.
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
        while host.in_hand < 4:
            await asyncio.sleep(0.001)
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

    async with running(Stubborn, pace=Pace(cancel_seconds=0.05)) as (client, _):
        waiting = asyncio.create_task(client.post("/predict", json={"data": 1, "id": "j1"}))
        await started.wait()
        answer = await client.post("/predict/j1/cancel")
        assert (answer.status_code, answer.json()["error"]["message"]) == (409, "it has not stopped yet")
        gate.set()
        assert (await waiting).status_code == 200


class Scaling(Engine):
    def predict(self, data: int, parameters: Options | None = None) -> int:
        return self.predict_batch([data], parameters)[0]

    def predict_batch(self, data: list[int], parameters: Options | None = None) -> list[int]:
        return [item * (parameters.times if parameters else 1) for item in data]


async def test_parameters_reach_predict_batch() -> None:
    async with running(Scaling) as (client, _):
        answer = await client.post("/predict/batch", json={"data": [1, "x", 2], "parameters": {"times": 3}})
        bad = await client.post("/predict/batch", json={"data": [1], "parameters": {"times": "many"}})
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert [one.get("result") for one in answer.json()["results"]] == [3, None, 6]
    assert bad.status_code == 422
    body = paths["/predict/batch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "parameters" in body["properties"]


async def test_parameters_for_a_batch_without_are_an_error_and_not_ignored() -> None:
    async with running(Batching) as (client, _):
        answer = await client.post("/predict/batch", json={"data": [{"x": 1}], "parameters": {"depth": 2}})
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "parameters: this engine takes none")


class Batching(Engine):
    def predict(self, data: Point) -> float:
        return data.x

    def predict_batch(self, data: list[Point]) -> list[float | Exception]:
        if any(point.label == "short" for point in data):
            return []
        if any(point.label == "fail" for point in data):
            raise RuntimeError("out of memory")
        answers: dict[str | None, Any] = {"reject": InvalidInput("too far"), "nan": float("nan")}
        return [answers.get(point.label, point.x) for point in data]


async def test_a_batch_answers_each_item_in_order() -> None:
    data = [{"x": 1}, {"x": -1}, {"x": 2, "label": "reject"}, {"x": 3, "label": "nan"}, {"x": 4}]
    async with running(Batching) as (client, _):
        answer = await client.post("/predict/batch", json={"data": data, "ids": list("abcde")})
        only_bad = await client.post("/predict/batch", json={"data": [{"x": -1}]})
    results = answer.json()["results"]
    assert [one.get("result") for one in results] == [1.0, None, None, None, 4.0]
    assert [one["error"]["retryable"] for one in results if "error" in one] == [False, False, True]
    assert results[1]["error"]["message"] == "x: Input should be greater than or equal to 0"
    assert "error" in only_bad.json()["results"][0]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"data": [{"x": 1, "label": "fail"}]}', 500, "RuntimeError: out of memory"),
        (b'{"data": [{"x": 1, "label": "short"}]}', 500, "BadResult: predict_batch answered 0 results to 1 inputs"),
        (b'{"data": {"x": 1}}', 422, "data: Input should be a valid"),
        (b"nonsense", 422, "body: Invalid JSON"),
    ],
)
async def test_a_batch_that_fails_as_a_whole(body: bytes, status: int, says: str) -> None:
    async with running(Batching) as (client, _):
        answer = await client.post("/predict/batch", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(says)


async def test_update_takes_its_own_type_and_info_is_shown() -> None:
    class Settings(BaseModel):
        factor: int

    class Scaling(Engine):
        """Scales."""

        factor = 1

        def predict(self, data: int) -> int:
            return data * self.factor

        def update(self, data: Settings) -> dict[str, int]:
            before, self.factor = self.factor, data.factor
            return {"before": before}

    async with running(Scaling) as (client, _):
        assert (await client.post("/update", json={"factor": 5})).json() == {"result": {"before": 1}}
        assert (await client.post("/predict", json={"data": 2})).json() == {"result": 10}
        assert (await client.post("/update", json={"factor": "x"})).status_code == 422
        assert (await client.get("/info")).json() == {"engine": "Scaling", "description": "Scales."}


async def test_update_without_argument() -> None:
    class Reloading(Anything):
        async def update(self) -> str:
            return "reloaded"

    async with running(Reloading) as (client, _):
        assert (await client.post("/update")).json() == {"result": "reloaded"}


async def test_endpoints_of_its_own() -> None:
    class Extended(Anything):
        def extend(self, app: Any) -> None:
            app.get("/vocabulary")(lambda: ["a", "b"])

    async with running(Extended) as (client, _):
        assert (await client.get("/vocabulary")).json() == ["a", "b"]
        assert "/vocabulary" in (await client.get("/openapi.json")).json()["paths"]
        assert "swagger" in (await client.get("/docs")).text


async def test_a_body_in_pieces() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps({"data": "in pieces"}).encode():
            yield bytes([byte])

    async with running(Anything) as (client, _):
        assert (await client.post("/predict", content=pieces())).json() == {"result": "in pieces"}


async def test_a_failing_load_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[bool] = []

    class Damaged(Anything):
        def load(self) -> None:
            raise OSError("the model file is damaged")

    host = EngineHost(Damaged, on_load_failure=lambda: told.append(True))
    await host.load()
    assert (told, host.ready) == ([True], False)
    assert "OSError: the model file is damaged" in caplog.text


async def test_load_may_be_async() -> None:
    class Async(Anything):
        async def load(self) -> None:  # type: ignore[override]
            await asyncio.sleep(0)

    async with running(Async) as (_, host):
        assert host.ready


def test_the_former_name_of_concurrency_is_refused() -> None:
    with pytest.raises(TypeError, match="slots is called concurrency now"):
        type("Old", (Engine,), {"slots": 1})
