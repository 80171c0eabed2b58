"""POST /predict/batch of an engine: one answer per item, in order, and failures of a whole batch."""

from typing import Any

import pytest
from tests.support.engine import Options, Point, running

from enginehouse.engine import Engine, InvalidInput


class Scaling(Engine):
    def predict(self, data: int, parameters: Options | None = None) -> int:
        return self.predict_batch([data], parameters)[0]

    def predict_batch(self, data: list[int], parameters: Options | None = None) -> list[int]:
        return [item * (parameters.times if parameters else 1) for item in data]


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


async def test_a_batch_answers_each_item_in_order() -> None:
    data = [{"x": 1}, {"x": -1}, {"x": 2, "label": "reject"}, {"x": 3, "label": "nan"}, {"x": 4}]
    async with running(Batching) as (client, _):
        answer = await client.post("/predict/batch", json={"data": data, "ids": list("abcde")})
        only_bad = await client.post("/predict/batch", json={"data": [{"x": -1}]})
    results = answer.json()["results"]
    assert [one.get("result") for one in results] == [1.0, None, None, None, 4.0]
    assert [one["error"]["retryable"] for one in results if "error" in one] == [False, False, False]
    assert [one["error"].get("code") for one in results if "error" in one] == [None, None, "MALFORMED_ANSWER"]
    assert results[1]["error"]["message"] == "x: Input should be greater than or equal to 0"
    assert "error" in only_bad.json()["results"][0]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"data": [{"x": 1, "label": "fail"}]}', 500, "RuntimeError: out of memory"),
        (b'{"data": [{"x": 1, "label": "short"}]}', 500, "predict_batch answered 0 results to 1 inputs"),
        (b'{"data": {"x": 1}}', 422, "data: Input should be a valid"),
        (b"nonsense", 422, "body: Invalid JSON"),
    ],
)
async def test_a_batch_that_fails_as_a_whole(body: bytes, status: int, says: str) -> None:
    async with running(Batching) as (client, _):
        answer = await client.post("/predict/batch", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(says)
