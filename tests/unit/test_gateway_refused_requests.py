"""Wrong paths, methods, ids, parameters and headers get a 4xx that says what is right, and store nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import structlog
import structlog.testing
from tests.support.gateway import GatewayWorld, gateway_world
from tests.support.problems import anonymous, problem_of, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayWorld]:
    """Start one gateway for all tests of this module: each sees to it that a refusal leaves nothing behind."""
    async with gateway_world(tmp_path_factory.mktemp("gateway")) as made:
        yield made


async def test_names_that_are_too_long(world: GatewayWorld) -> None:
    await refused(world, "POST", f"/v1/engines/{'x' * 65}/jobs", 422, json={"input": 1})
    await refused(world, "POST", "/v1/jobs", 422, json={"engine": "x" * 65})


A_JOB = "01890a5d-ac96-7b2a-8c4e-0123456789ab"
BAD_IDS = ["abc", "1", "%00", "..%2f", "0" * 36, "01890a5d-ac96-4b2a-8c4e-0123456789ab", "é", "x" * 2_000]


@pytest.mark.parametrize("job_id", [*BAD_IDS, A_JOB.upper()])
async def test_a_malformed_id(world: GatewayWorld, job_id: str) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
        answer = await world.client().request(method, f"/v1/jobs/{job_id}{path}")
        assert answer.status_code in (404, 422)
        problem_of(answer, answer.status_code)


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
    ("GET", f"/v1/jobs/{A_JOB}?wait=-1"),
    ("GET", f"/v1/jobs/{A_JOB}?wait=61"),
    ("GET", f"/v1/jobs/{A_JOB}?wait=nan"),
    ("GET", f"/v1/jobs/{A_JOB}?wait=inf"),
    ("GET", f"/v1/jobs/{A_JOB}?wait=soon"),
    ("POST", f"/v1/jobs/{A_JOB}/cancel?force=1"),
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
    said = await refused(
        world, "POST", "/v1/jobs", 415, "UNSUPPORTED_MEDIA_TYPE", content=b'{"input":1}', headers=headers
    )
    assert "application/json" in said["detail"]


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_an_idempotency_key_of_no_use(world: GatewayWorld, key: str) -> None:
    await refused(world, "POST", "/v1/jobs", 400, "INVALID_HEADER", json={"input": 1}, headers={"Idempotency-Key": key})


async def test_a_batchs_key_leaves_room_for_its_jobs(world: GatewayWorld) -> None:
    headers = {"Idempotency-Key": "k" * 251}
    body = {"jobs": [{"engine": "echo"}]}
    await refused(world, "POST", "/v1/jobs/batch", 400, "INVALID_HEADER", json=body, headers=headers)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/jobs/", 404, "NOT_FOUND"),
        ("GET", "/nope", 404, "NOT_FOUND"),
        ("DELETE", "/v1/jobs", 405, "METHOD_NOT_ALLOWED"),
        ("PUT", "/v1/engines/echo/jobs", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1", 404, "NOT_FOUND"),
    ],
)
async def test_ways_that_lead_nowhere(world: GatewayWorld, method: str, path: str, status: int, code: str) -> None:
    await refused(world, method, path, status, code)


@pytest.mark.parametrize(
    ("method", "path", "body", "says"),
    [
        ("GET", "/v1/jobs?statsu=queued", None, "query.statsu: there is no such field; did you mean 'status'?"),
        ("POST", "/v1/jobs", {"inptu": 1}, "inptu: there is no such field; did you mean 'input'?"),
        ("POST", "/v1/jobs", {"retry": {"max_attempt": 3}}, "retry.max_attempt: there is no such field; did you mean"),
        ("POST", "/v1/uploads", {"x": 1}, "x: there is no such field; there are content_type"),
        ("GET", "/v1/jobs?cursor=abc", None, "query.cursor: it must be the `next_cursor` of the page before"),
        ("GET", "/v1/dead-letters?cursor=abc", None, "query.cursor: it must be the `next_cursor` of the page before"),
        ("GET", "/v1/engines?cursor=A", None, "query.cursor: it must be the `next_cursor` of the page before"),
        ("GET", "/v1/engines/echo?x=1", None, "takes no query parameters, and the request has 'x'"),
    ],
)
async def test_an_unknown_field_is_told_its_nearest_neighbour_and_a_cursor_where_it_comes_from(
    world: GatewayWorld, method: str, path: str, body: Any, says: str
) -> None:
    said = await refused(world, method, path, 422, "INVALID_REQUEST", json=body)
    assert says in said["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/jobs", "GET, POST"),
        ("PUT", "/v1/engines/echo/jobs", "POST"),
        ("PATCH", f"/v1/jobs/{A_JOB}", "GET"),
        ("GET", "/v1/jobs/batch", "POST"),
        ("POST", "/healthz/ready", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(world: GatewayWorld, method: str, path: str, allowed: str) -> None:
    answer = await world.client().request(method, path)
    problem_of(answer, 405)
    assert answer.headers["allow"] == allowed


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
