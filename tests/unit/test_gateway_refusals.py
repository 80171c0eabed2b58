"""What bad input gets: a 4xx that says what was wrong and what would be right, never a 5xx, and nothing stored."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import structlog
import structlog.testing
from tests.support.gateway import ECHO, PRIVATE, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.waiting import until_async

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import InvalidInput
from enginehouse.contracts.job import Status
from enginehouse.contracts.names import new_job_id, results_component
from enginehouse.gateway.engines.input_schema import InputSchema

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
    """One for all: what is refused leaves nothing behind, which each test sees to."""
    async with gateway_world(
        tmp_path_factory.mktemp("gateway"),
        engines=["shared--standard", ECHO, PRIVATE, TYPED],
        cards={TYPED: {"input_schema": SCHEMA}},
    ) as made:
        yield made


async def refused(
    world: GatewayWorld, method: str, path: str, status: int, code: str | None = None, **request: Any
) -> dict[str, Any]:
    """Send a request that must be refused and leave nothing behind."""
    before, handed_over = await world.stored(), world.handed_over()
    answer = await world.client().request(method, path, **request)
    body = problem_of(answer, status, code)
    assert await world.stored() == before
    assert world.handed_over() == handed_over
    return body


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
    "UTF-16": '{"input": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"input": 1}',
    "a number of 5,000 digits": b'{"input": ' + b"9" * 5_000 + b"}",
    "10,000 levels of lists": b'{"input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "10,000 levels of objects": b'{"input": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    "10,000 open brackets": b"[" * 10_000,
    "a raw null byte": b'{"input": "a\x00b"}',
    "compressed": b"\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/engines/echo/jobs"])
async def test_what_is_not_json(world: GatewayWorld, path: str, body: bytes) -> None:
    said = await refused(world, "POST", path, 422, content=body)
    assert "JSON" in said["detail"] or "number" in said["detail"]


WRONG = {
    "no object": ([1], "body"),
    "null": (None, "body"),
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


@pytest.mark.parametrize(
    "engine",
    ["none-such", "Echo", "umbra--private", "acme--none", "a--b--c", "x" * 60, "shared--gateway", "é", "%00", "umbra"],
)
async def test_an_engine_that_the_caller_does_not_have(world: GatewayWorld, engine: str) -> None:
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/jobs", {"json": {"engine": engine, "input": 1}}),
        ("POST", f"/v1/engines/{engine}/jobs", {"json": {"input": 1}}),
        ("GET", f"/v1/engines/{engine}", {}),
        ("GET", "/v1/jobs", {"params": {"engine": engine}}),
    ]
    for method, path, request in requests:
        await refused(world, method, path, 404, "ENGINE_DOES_NOT_EXIST", **request)


async def test_names_that_are_too_long(world: GatewayWorld) -> None:
    await refused(world, "POST", f"/v1/engines/{'x' * 65}/jobs", 422, json={"input": 1})
    await refused(world, "POST", "/v1/jobs", 422, json={"engine": "x" * 65})


async def test_a_removed_engine_is_as_one_that_never_was(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        engine = world.gateway.catalogue.get(ECHO)
        assert engine is not None
        world.dapr.components.discard(results_component(ECHO))

        async def retired() -> bool:
            await world.gateway.catalogue.refresh()
            return engine.state == EngineState.RETIRED

        await until_async(retired)
        await refused(world, "POST", "/v1/engines/echo/jobs", 404, "ENGINE_DOES_NOT_EXIST", json={"input": 1})


MISFITS = {
    "wrong type": ("hello", "input"),
    "a field missing": ({}, "text"),
    "a field too many": ({"text": "a", "more": 1}, "more"),
    "a value of the wrong type": ({"text": 5}, "input.text"),
    "too long": ({"text": "a" * 21}, "input.text"),
    "too large": ({"text": "a", "n": 11}, "input.n"),
    "far too large": ({"text": "a", "n": 10**400}, "input.n"),
    "nothing": (None, "input"),
}


@pytest.mark.parametrize(("value", "names"), MISFITS.values(), ids=MISFITS.keys())
async def test_an_input_that_does_not_fit_the_engines_schema(world: GatewayWorld, value: Any, names: str) -> None:
    said = await refused(world, "POST", "/v1/engines/typed/jobs", 422, "INVALID_INPUT", json={"input": value})
    assert names in said["detail"]


async def test_a_large_input_that_does_not_fit_is_refused_without_a_close_look() -> None:
    schema, size = InputSchema({"type": "object"}), 2_000_000
    await schema.check({"text": "fits"}, size)
    with pytest.raises(InvalidInput, match="too large to say where"):
        await schema.check(["x" * size], size)


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
    said = await refused(world, "POST", "/v1/jobs", 422, content=body)
    assert said["code"] == "INVALID_INPUT" or "recursion" in said["detail"]


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


def anonymous(world: GatewayWorld, headers: list[tuple[bytes, bytes]]) -> httpx2.AsyncClient:
    """A client that proves itself with these headers, or not at all. It sees what the gateway answers to its own errors."""
    transport = httpx2.ASGITransport(world.app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)


KEYS = {
    "none": None,
    "empty": "",
    "another scheme": "Basic YWNtZTpzZWNyZXQ=",
    "no key": "Bearer ",
    "an unknown key": "Bearer eh_acme_" + "x" * 43,
    "a key without scheme": "eh_acme_" + "x" * 43,
    "a very long key": "Bearer " + "x" * 7_000,
    "not ASCII": "Bearer \xff\xfe",
}


@pytest.mark.parametrize("authorization", KEYS.values(), ids=KEYS.keys())
async def test_a_bad_key(world: GatewayWorld, authorization: str | None) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    before = await world.stored()
    async with anonymous(world, headers) as client:
        for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/engines")):
            answer = await client.request(method, path, json={"input": 1} if method == "POST" else None)
            problem_of(answer, 401, "UNAUTHENTICATED")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert await world.stored() == before


async def test_a_bad_key_learns_nothing_of_what_else_was_wrong(world: GatewayWorld) -> None:
    async with anonymous(world, [(b"authorization", b"Bearer wrong")]) as client:
        for path in ("/v1/jobs/not-an-id", "/v1/engines/none-such", "/v1/jobs?x=1", f"/v1/jobs/{new_job_id()}"):
            problem_of(await client.get(path), 401, "UNAUTHENTICATED")


BAD_IDS = ["abc", "1", "%00", "..%2f", "0" * 36, "01890a5d-ac96-4b2a-8c4e-0123456789ab", "é", "x" * 2_000]


@pytest.mark.parametrize("job_id", [*BAD_IDS, str(new_job_id()).upper()])
async def test_a_malformed_id(world: GatewayWorld, job_id: str) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
        answer = await world.client().request(method, f"/v1/jobs/{job_id}{path}")
        assert answer.status_code in (404, 422)
        problem_of(answer, answer.status_code)


async def test_a_job_that_nobody_submitted(world: GatewayWorld) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
        await refused(world, method, f"/v1/jobs/{new_job_id()}{path}", 404, "JOB_DOES_NOT_EXIST")


async def test_another_tenants_job_is_as_one_that_never_was(world: GatewayWorld) -> None:
    job_id = await world.submit()
    await world.until_status(job_id, Status.SUCCEEDED)
    theirs = world.client("umbra")
    unknown = problem_of(await theirs.get(f"/v1/jobs/{new_job_id()}"), 404, "JOB_DOES_NOT_EXIST")
    for method, path in (("GET", ""), ("GET", "?wait=1"), ("POST", "/cancel"), ("POST", "/retry")):
        said = problem_of(await theirs.request(method, f"/v1/jobs/{job_id}{path}"), 404, "JOB_DOES_NOT_EXIST")
        assert {k: v for k, v in said.items() if k != "detail"} == {k: v for k, v in unknown.items() if k != "detail"}
    assert (await theirs.get("/v1/jobs")).json() == {"jobs": [], "next_cursor": None}


QUERIES = [
    ("POST", "/v1/jobs?wait=5"),
    ("POST", "/v1/engines/echo/jobs?x="),
    ("GET", "/v1/jobs?statsu=queued"),
    ("GET", "/v1/jobs?status=done"),
    ("GET", "/v1/jobs?limit=0"),
    ("GET", "/v1/jobs?limit=1001"),
    ("GET", "/v1/jobs?limit=many"),
    ("GET", "/v1/jobs?limit=" + "9" * 5_000),
    ("GET", "/v1/jobs?cursor=abc"),
    ("GET", "/v1/jobs?cursor=%00"),
    ("GET", "/v1/jobs?limit=1&limit=2&x=1"),
    ("GET", "/v1/engines?x=1"),
    ("GET", "/v1/engines/echo?x=1"),
    ("GET", f"/v1/jobs/{new_job_id()}?wait=-1"),
    ("GET", f"/v1/jobs/{new_job_id()}?wait=61"),
    ("GET", f"/v1/jobs/{new_job_id()}?wait=nan"),
    ("GET", f"/v1/jobs/{new_job_id()}?wait=inf"),
    ("GET", f"/v1/jobs/{new_job_id()}?wait=soon"),
    ("POST", f"/v1/jobs/{new_job_id()}/cancel?force=1"),
    ("GET", "/healthz/ready?x=1"),
]


@pytest.mark.parametrize(("method", "path"), QUERIES)
async def test_unknown_and_wrong_query_parameters(world: GatewayWorld, method: str, path: str) -> None:
    await refused(world, method, path, 422, "INVALID_REQUEST", json={"input": 1} if method == "POST" else None)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", "é"]
)
async def test_a_wrong_content_type(world: GatewayWorld, content_type: str) -> None:
    headers = {"Content-Type": content_type.encode("latin-1")}
    said = await refused(world, "POST", "/v1/jobs", 422, "INVALID_REQUEST", content=b'{"input":1}', headers=headers)
    assert "application/json" in said["detail"]


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_an_idempotency_key_of_no_use(world: GatewayWorld, key: str) -> None:
    await refused(world, "POST", "/v1/jobs", 422, json={"input": 1}, headers={"Idempotency-Key": key})


async def test_a_batchs_key_leaves_room_for_its_jobs(world: GatewayWorld) -> None:
    headers = {"Idempotency-Key": "k" * 251}
    await refused(world, "POST", "/v1/jobs/batch", 422, json={"jobs": [{"engine": "echo"}]}, headers=headers)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/jobs/", 404),
        ("GET", "/nope", 404),
        ("DELETE", "/v1/jobs", 405),
        ("PUT", "/v1/engines/echo/jobs", 405),
        ("GET", "/v1", 404),
    ],
)
async def test_ways_that_lead_nowhere(world: GatewayWorld, method: str, path: str, status: int) -> None:
    await refused(world, method, path, status)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/jobs", "GET, POST"),
        ("PUT", "/v1/engines/echo/jobs", "POST"),
        ("PATCH", f"/v1/jobs/{new_job_id()}", "GET"),
        ("GET", "/v1/jobs/batch", "POST"),
        ("POST", "/healthz/ready", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(world: GatewayWorld, method: str, path: str, allowed: str) -> None:
    answer = await world.client().request(method, path)
    problem_of(answer, 405)
    assert answer.headers["allow"] == allowed


async def test_only_an_operator_may_stop_engines(world: GatewayWorld) -> None:
    for action in ("quarantine", "resume", "purge"):
        await refused(world, "POST", f"/v1/engines/echo/{action}", 403, "FORBIDDEN", json={"reason": "no"})


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


async def test_the_answer_to_an_unexpected_error_shows_no_trace(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("the inside of the gateway")

    monkeypatch.setattr(world.gateway.catalogue, "visible_to", broken)
    async with anonymous(world, world.client().headers.raw) as client:
        with structlog.testing.capture_logs() as logged:
            answer = await client.get("/v1/engines")
    assert "inside" not in problem_of(answer, 500, "INTERNAL")["detail"]
    assert [(line["action"], line["request_id"]) for line in logged] == [
        ("request_failed", answer.headers["x-request-id"])
    ]
