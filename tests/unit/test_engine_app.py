"""An engine's HTTP side, called through its real ASGI app: requests, results, errors, loading, extra endpoints."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel
from tests.support.engine import Anything, Options, Point, running

from enginehouse.engine import Engine, InvalidInput
from enginehouse.engine.host import EngineHost


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
    traces = [record.getMessage() for record in caplog.records if "Traceback" in record.getMessage()]
    assert len(traces) == (1 if status == 500 else 0)
    assert all("j7" in trace and "codec.py" not in trace and "in predict" in trace for trace in traces)


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
    error = answer.json()["error"]
    assert error["message"].startswith(f"result.value: {number}, a number that JSON does not have")
    assert (error["retryable"], error["code"]) == (False, "MALFORMED_ANSWER")


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
        assert wrong.json()["error"]["message"].startswith("the result is not of the declared type: 0:")
        assert (await client.post("/predict", json={"data": "object"})).status_code == 500
        assert (await client.post("/predict", json={"data": "ok"})).json() == {"result": [1]}


async def test_a_result_that_cannot_be_json_is_an_error_that_is_final() -> None:
    class Objects(Engine):
        def predict(self, data: str) -> Any:
            return {"boxes": [{"score": object()}]}

    async with running(Objects) as (client, _):
        answer = await client.post("/predict", json={"data": "object"})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["message"].startswith("result.boxes[0].score: a object, which JSON does not have")
    assert (error["retryable"], error["code"]) == (False, "MALFORMED_ANSWER")


async def test_an_error_whose_text_holds_a_lone_surrogate_is_answered_as_any_other() -> None:
    class Refusing(Engine):
        def predict(self, data: str) -> str:
            raise InvalidInput(f"no such word: {data}\ud800") if data == "refuse" else ValueError("\ud800")

    async with running(Refusing) as (client, _):
        refused = await client.post("/predict", json={"data": "refuse"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (422, "no such word: refuse\ufffd")
        failed = await client.post("/predict", json={"data": "fail"})
        assert (failed.status_code, failed.json()["error"]["message"]) == (500, "ValueError: \ufffd")


async def test_not_healthy_and_busy_until_loaded() -> None:
    async with running(Anything, load=False) as (client, host):
        assert (await client.get("/healthz")).status_code == 503
        busy = await client.post("/predict", json={"data": 1})
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        assert busy.json()["error"]["retryable"] is True
        await host.load()
        assert (await client.get("/healthz")).status_code == 200


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


async def test_the_trace_of_a_failed_load_shows_only_the_authors_code(caplog: pytest.LogCaptureFixture) -> None:
    class Damaged(Anything):
        def load(self) -> None:
            try:
                json.loads("{")
            except ValueError as error:
                raise RuntimeError("weights.json is damaged") from error

    host = EngineHost(Damaged)
    await host.load()
    frames = re.findall(r'File "(.*)", line', caplog.text)
    assert set(frames) == {__file__}
    assert caplog.text.rstrip().endswith("RuntimeError: weights.json is damaged")
    assert "JSONDecodeError" in caplog.text


async def test_load_may_be_async() -> None:
    class Async(Anything):
        async def load(self) -> None:  # type: ignore[override]
            await asyncio.sleep(0)

    async with running(Async) as (_, host):
        assert host.ready


def test_the_former_name_of_concurrency_is_refused() -> None:
    with pytest.raises(TypeError, match="slots is called concurrency now"):
        type("Old", (Engine,), {"slots": 1})
