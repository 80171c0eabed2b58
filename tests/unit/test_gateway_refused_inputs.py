"""Bodies that cannot be jobs get a 4xx that says why, and store nothing. Odd but valid inputs come back unchanged."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.gateway import ECHO, PRIVATE, STANDARD, GatewayWorld, gateway_world
from tests.support.problems import refused

from enginehouse.contracts.job import Status
from enginehouse.contracts.json_text import NUMBER_MAX

SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 20}, "n": {"type": "integer", "maximum": 10}},
    "required": ["text"],
    "additionalProperties": False,
}


TYPED = "acme--typed"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayWorld]:
    """Start one gateway for all tests of this module: each sees to it that a refusal leaves nothing behind."""
    async with gateway_world(
        tmp_path_factory.mktemp("gateway"),
        engines=[STANDARD, ECHO, PRIVATE, TYPED],
        cards={TYPED: {"input_schema": SCHEMA}},
    ) as made:
        yield made


NOT_JSON = {
    "empty": b"",
    "cut off": b'{"input": ',
    "not JSON": b"input=hello",
    "two documents": b'{"input":1}{"input":2}',
    "NaN": b'{"input": NaN}',
    "Infinity": b'{"input": -Infinity}',
    "a lone surrogate": b'{"input": "\\ud800"}',
    "a lone surrogate as a key": b'{"input": {"\\udfff": 1}}',
    "not UTF-8": b'{"input": "\xff\xfe"}',
    "a number of 5,000 digits": b'{"input": ' + b"9" * 5_000 + b"}",
    "10,000 levels of lists": b'{"input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "10,000 levels of objects": b'{"input": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    "10,000 open brackets": b"[" * 10_000,
    "a raw null byte": b'{"input": "a\x00b"}',
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/engines/echo/jobs"])
async def test_what_is_not_json(world: GatewayWorld, path: str, body: bytes) -> None:
    said = await refused(world, "POST", path, 422, "NOT_JSON", content=body)
    assert "JSON" in said["detail"]


WRONG = {
    "no object": ([1], "body"),
    "an unknown field": ({"input": 1, "inptu": 2}, "inptu"),
    "priority as text": ({"input": 1, "priority": "high"}, "priority"),
    "priority too high": ({"input": 1, "priority": 10}, "priority"),
    "priority beyond all integers": ({"input": 1, "priority": 10**30}, "priority"),
    "a negative clock": ({"input": 1, "execution_timeout_seconds": -1}, "execution_timeout_seconds"),
    "a clock of nothing": ({"input": 1, "max_time_in_queue_seconds": 0}, "max_time_in_queue_seconds"),
    "a clock of years": ({"input": 1, "max_time_in_queue_seconds": 10**9}, "max_time_in_queue_seconds"),
    "a result kept for no time": ({"input": 1, "result_ttl_seconds": 0}, "result_ttl_seconds"),
    "a webhook that is no URL": ({"input": 1, "webhook": "ftp://example.com"}, "webhook"),
    "a filter of unknown events": (
        {"input": 1, "webhook": "https://example.com", "webhook_events_filter": ["begun"]},
        "webhook_events_filter",
    ),
    "too many attempts": ({"input": 1, "retry": {"max_attempts": 1000}}, "retry.max_attempts"),
    "an unknown field in retry": ({"input": 1, "retry": {"attempts": 3}}, "retry.attempts"),
    "parameters that are no object": ({"input": 1, "parameters": [1]}, "parameters"),
    "input and input_ref": ({"input": 1, "input_ref": "acme/uploads/x"}, "input_ref"),
    "a reference without a store": ({"input_ref": "acme/uploads/x"}, "object store"),
}


@pytest.mark.parametrize(("body", "names"), WRONG.values(), ids=WRONG.keys())
async def test_wrong_types_and_fields_are_named(world: GatewayWorld, body: Any, names: str) -> None:
    said = await refused(world, "POST", "/v1/engines/echo/jobs", 422, "INVALID_REQUEST", json=body)
    assert names in said["detail"]


MISFITS = {
    "wrong type": ("hello", "input"),
    "a field missing": ({}, "text"),
    "a field too many": ({"text": "a", "more": 1}, "more"),
    "a value of the wrong type": ({"text": 5}, "input.text"),
    "too long": ({"text": "a" * 21}, "input.text"),
    "too large": ({"text": "a", "n": 11}, "input.n"),
    "far too large": ({"text": "a", "n": 10**300}, "input.n"),
    "nothing": (None, "input"),
}


@pytest.mark.parametrize("number", [2**53 + 1, -(2**64) - 1, 10**100, NUMBER_MAX, -NUMBER_MAX, 5e-324, 0.1, 1.0])
async def test_numbers_in_the_range_of_a_double_arrive_exact(world: GatewayWorld, number: float) -> None:
    job_id = await world.submit([number], parameters={"n": number})
    order = (await world.delivered(job_id)).data
    assert (order.input, order.parameters) == ([number], {"n": number})
    done = await world.until_status(job_id, Status.SUCCEEDED)
    assert done["output"] == {"echo": [number]}


@pytest.mark.parametrize("number", ["1" + "0" * 309, "-" + "9" * 400, "1e400"])
@pytest.mark.parametrize(
    ("body", "where"),
    [('{"input": {"n": [%s]}}', "input.n[0]"), ('{"parameters": {"n": %s}}', "parameters.n")],
)
async def test_a_number_beyond_the_range_of_a_double_is_refused(
    world: GatewayWorld, body: str, where: str, number: str
) -> None:
    said = await refused(world, "POST", "/v1/engines/echo/jobs", 422, "NOT_JSON", content=body % number)
    assert where in said["detail"]


async def test_parameters_beyond_their_limit_are_refused(world: GatewayWorld) -> None:
    body = {"input": 1, "parameters": {"a": ["é"] * 13_200}}
    said = await refused(world, "POST", "/v1/engines/echo/jobs", 413, "INPUT_TOO_LARGE", json=body)
    assert "parameters have" in said["detail"]


@pytest.mark.parametrize(("value", "names"), MISFITS.values(), ids=MISFITS.keys())
async def test_an_input_that_does_not_fit_the_engines_schema(world: GatewayWorld, value: Any, names: str) -> None:
    said = await refused(world, "POST", "/v1/engines/typed/jobs", 422, "INVALID_INPUT", json={"input": value})
    assert names in said["detail"]


BEYOND = {
    "a number beyond all numbers": b"1e400",
    "a number beyond all numbers, deep inside": b'{"a": [1, {"b": -1e999}]}',
    "a number of 400 digits and a point": b"1" * 400 + b".5",
    "129 levels of lists": b"[" * 129 + b"]" * 129,
    "199 levels of objects": b'{"a":' * 198 + b"{}" + b"}" * 198,
}


@pytest.mark.parametrize("value", BEYOND.values(), ids=BEYOND.keys())
@pytest.mark.parametrize("field", ["input", "parameters"])
async def test_what_an_engine_could_not_be_given(world: GatewayWorld, field: str, value: bytes) -> None:
    inner = value if field == "input" else b'{"p":' + value + b"}"
    body = b'{"engine":"echo","%s":%s}' % (field.encode(), inner)
    said = await refused(world, "POST", "/v1/jobs", 422, "NOT_JSON", content=body)
    assert field in said["detail"] or "recursion" in said["detail"]


async def test_infinity_is_a_word_like_any_other(world: GatewayWorld) -> None:
    values: list[Any] = ["Infinity", {"NaN": "-Infinity"}, [[]] * 200, json.loads("[" * 128 + "]" * 128)]
    for value in values:
        job = await world.until_status(await world.submit(value), Status.SUCCEEDED)
        assert job["output"] == {"echo": value}


async def test_a_body_without_an_input_is_checked_as_null(world: GatewayWorld) -> None:
    await refused(world, "POST", "/v1/engines/typed/jobs", 422, "INVALID_INPUT", json={})


async def test_inputs_too_large(world: GatewayWorld) -> None:
    for size in (65_535, 1_000_000):
        said = await refused(world, "POST", "/v1/engines/echo/jobs", 413, "INPUT_TOO_LARGE", json={"input": "x" * size})
        assert "uploads" in said["advice"]
    await refused(world, "POST", "/v1/jobs", 413, "INPUT_TOO_LARGE", json={"input": "x" * 9_000_000})


async def test_an_input_of_exactly_the_limit_is_taken(world: GatewayWorld) -> None:
    assert await world.submit("x" * (65_536 - 2))


async def test_in_a_batch_each_wrong_job_is_refused_on_its_own(world: GatewayWorld) -> None:
    jobs: list[Any] = [
        {"engine": "echo", "input": 1},
        {"engine": "none-such", "input": 1},
        {"engine": "typed", "input": 1},
        {"engine": "echo", "input": "x" * 70_000},
        {"engine": "echo", "inptu": 1},
        "not an object",
        {"engine": "echo", "input": 2},
    ]
    answer = await world.client().post("/v1/jobs/batch", json={"jobs": jobs})
    assert answer.status_code == 202
    answers = answer.json()["jobs"]
    assert [item.get("problem", {}).get("status") for item in answers] == [None, 404, 422, 413, 422, 422, None]
    assert [item["engine"] for item in answers if "engine" in item] == [ECHO, ECHO]


@pytest.mark.parametrize("jobs", [[], [{}] * 1_001, {}, None])
async def test_a_batch_of_the_wrong_size(world: GatewayWorld, jobs: Any) -> None:
    await refused(world, "POST", "/v1/jobs/batch", 422, "INVALID_REQUEST", json={"jobs": jobs})


ODD_BUT_FINE = {
    "a null byte": "a\x00b",
    "a key of nothing but a null byte": {"\x00": 1},
    "a huge integer": 10**300,
    "astral": "😀",
    "null": None,
    "false": False,
    "empty": {},
    "control characters": "\x01\x1f\x7f\u2028",
    "many keys": {str(i): i for i in range(3_000)},
}


@pytest.mark.parametrize("value", ODD_BUT_FINE.values(), ids=ODD_BUT_FINE.keys())
async def test_an_odd_input_comes_back_as_it_was(world: GatewayWorld, value: Any) -> None:
    job_id = await world.submit(value, parameters={"p": value})
    job = await world.until_status(job_id, Status.SUCCEEDED)
    assert job["input"] == value
    assert job["output"] == {"echo": value}
    assert world.runner.events[-1].data.parameters == {"p": value}


@pytest.mark.parametrize("value", ["a\x00b", {"\x00": "\x00"}])
async def test_a_null_byte_is_taken_by_postgresql_too(tmp_path: Path, postgres_url: str, value: Any) -> None:
    async with gateway_world(tmp_path, ledger_url=postgres_url) as world:
        headers = {"Idempotency-Key": "k" * 250}
        body = {"jobs": [{"engine": "echo", "input": value, "parameters": {"p": value}}]}
        for _ in range(2):
            answer = await world.client().post("/v1/jobs/batch", json=body, headers=headers)
            (accepted,) = answer.json()["jobs"]
            job = await world.until_status(accepted["id"], Status.SUCCEEDED)
            assert job["output"] == {"echo": value}
        assert (await world.stored())["jobs"] == 1
