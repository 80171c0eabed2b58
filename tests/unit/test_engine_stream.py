"""A predict that yields: its events, its one result, its cancelling, and its mistakes."""

import asyncio
import json
import threading
from array import array
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from tests.support.engine import running

from enginehouse.engine import Engine, Event, InvalidInput, Log, Metric, Output, Progress
from enginehouse.engine.host import EngineHost
from enginehouse.engine.openapi import add_predict
from enginehouse.engine.signature import read_signature
from enginehouse.engine.stream import WAITING_MAX_BYTES, Lines
from enginehouse.engine.testing import EngineTester, Refused


class Sum(BaseModel):
    total: int


class Threaded(Engine):
    """Runs in a thread; yields its result last."""

    def predict(self, data: list[int]) -> Iterator[Event | Sum]:
        if not data:
            raise InvalidInput("nothing to add")
        yield Log("begun")
        for index, number in enumerate(data):
            if number < 0:
                raise InvalidInput("only positive ones")
            yield Progress((index + 1) / len(data))
        yield Metric("numbers", len(data))
        yield Output([1, 2])
        yield Progress(message="done")
        yield Sum(total=sum(data))


class Returning(Engine):
    """Runs in a thread; returns its result."""

    def predict(self, data: list[int]) -> Generator[Event, None, Sum]:
        yield Progress(0.5, "half")
        return Sum(total=sum(data))


class Async(Engine):
    """Runs in the event loop."""

    async def predict(self, data: list[int]) -> AsyncIterator[Event | Sum]:
        for number in data:
            await asyncio.sleep(0)
            yield Log(str(number))
        yield Sum(total=sum(data))


def lines_of(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


async def test_what_is_yielded_comes_as_lines_and_the_result_last() -> None:
    async with running(Threaded) as (client, _):
        answer = await client.post("/predict", json={"data": [1, 2]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines_of(answer.content) == [
        {"log": "begun"},
        {"progress": {"fraction": 0.5}},
        {"progress": {"fraction": 1.0}},
        {"metric": {"name": "numbers", "value": 2}},
        {"output": [1, 2]},
        {"progress": {"message": "done"}},
        {"result": {"total": 3}},
    ]


@pytest.mark.parametrize(
    ("engine", "told"),
    [(Returning, [{"progress": {"fraction": 0.5, "message": "half"}}]), (Async, [{"log": "1"}, {"log": "2"}])],
)
def test_returned_and_asynchronous_ones_do_the_same(engine: type[Engine], told: list[Any]) -> None:
    with EngineTester(engine) as tester:
        assert tester.predict([1, 2]) == {"total": 3}
        assert tester.told == told


def test_nothing_told_is_a_plain_answer() -> None:
    with EngineTester(Async) as tester:
        assert tester.request("POST", "/predict", b'{"data": []}') == (200, b'{"result":{"total":0}}')


def test_refusals_have_a_status_before_the_first_line_and_are_a_line_after_it() -> None:
    with EngineTester(Threaded) as tester:
        with pytest.raises(Refused) as refused:
            tester.predict([])
        assert refused.value.status == 422
        status, body = tester.request("POST", "/predict", b'{"data": [1, -1]}')
        assert status == 200
        assert lines_of(body)[-1] == {"error": {"message": "only positive ones", "retryable": False}}


def misbehaving(how: str) -> type[Engine]:
    class Misbehaves(Engine):
        def predict(self, data: None) -> Iterator[Event | int]:
            yield Log("begun")
            if how == "goes on":
                yield 1
                yield Log("more")
            elif how == "two results":
                yield 1
                yield 2
            elif how == "of another type":
                yield "words"  # type: ignore[misc]
            elif how == "not JSON":
                yield Output(object())

    return Misbehaves


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("goes on", "predict yielded a value after its result"),
        ("two results", "predict yielded a value after its result"),
        ("of another type", "the result is not of the declared type"),
        ("ends", "predict ended without a result"),
        ("not JSON", "event.output: a object, which JSON does not have"),
    ],
)
def test_what_is_no_result_is_an_error(how: str, says: str) -> None:
    with EngineTester(misbehaving(how)) as tester:
        error = lines_of(tester.request("POST", "/predict", b'{"data": null}')[1])[-1]["error"]
    assert says in error["message"]
    assert (error["retryable"], error["code"]) == (False, "MALFORMED_ANSWER")


def test_foreign_values_become_json_in_events_also() -> None:
    class Arrays(Engine):
        def predict(self, data: None) -> Iterator[Event | int]:
            yield Output({"mask": array("d", [0.5])})
            yield 1

    with EngineTester(Arrays) as tester:
        assert tester.predict(None) == 1
        assert tester.told == [{"output": {"mask": [0.5]}}]


def test_numbers_that_json_does_not_know_harm_nothing_on_the_way() -> None:
    class Odd(Engine):
        def predict(self, data: None) -> Iterator[Event | int]:
            yield Metric("loss", float("nan"))
            yield 1

    with EngineTester(Odd) as tester:
        assert tester.predict(None) == 1
        assert tester.told == [{"metric": {"name": "loss", "value": None}}]


def test_the_schema_is_that_of_the_result() -> None:
    for engine in (Threaded, Returning, Async):
        content = add_predict({}, read_signature(engine))["paths"]["/predict"]["post"]["responses"]["200"]["content"]
        result = content["application/json"]["schema"]["properties"]["result"]
        assert result == {"$ref": "#/components/schemas/Sum"}
        assert "application/x-ndjson" in content


class Endless(Engine):
    """Runs until it is canceled."""

    closed = threading.Event()

    def predict(self, data: None) -> Iterator[Event | int]:
        try:
            while True:
                yield Progress(0.1)
        finally:
            self.closed.set()


async def test_one_that_streams_from_a_thread_is_canceled_at_its_next_step() -> None:
    host = EngineHost(Endless)
    await host.load()
    lines = Lines()
    running = asyncio.create_task(host.predict(b'{"data": null, "id": "j1"}', lines))
    assert await lines.take()
    assert await host.cancel("j1") is True
    assert (await running).status == 409
    assert Endless.closed.is_set()
    assert (await host.cancel("j1"), host.in_hand) == (None, 0)
    host.close()


async def test_what_is_told_faster_than_it_can_be_sent_is_dropped() -> None:
    lines = Lines()
    for _ in range(200):
        lines.put(Log("x" * 20_000))
    assert len(await lines.take()) <= WAITING_MAX_BYTES
    lines.put(Log("again"))
    assert await lines.take() == b'{"log":"again"}\n'
    lines.close()
    assert await lines.take() == b""
