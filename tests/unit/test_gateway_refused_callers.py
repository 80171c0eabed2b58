"""Callers without a valid key get 401, and the engines, jobs and rights of others are hidden from them or refused."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.gateway import ECHO, GatewayWorld, gateway_world
from tests.support.gateway_engines import remove
from tests.support.problems import anonymous, problem_of, refused

from enginehouse.contracts.job import Status
from enginehouse.contracts.names import new_job_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayWorld]:
    """Start one gateway for all tests of this module: each sees to it that a refusal leaves nothing behind."""
    async with gateway_world(tmp_path_factory.mktemp("gateway")) as made:
        yield made


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


async def test_only_its_owner_is_told_that_an_engine_was_removed(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        await remove(world)
        await refused(world, "POST", "/v1/engines/echo/jobs", 410, "ENGINE_REMOVED", json={"input": 1})
        theirs = world.client("umbra")
        problem_of(await theirs.post(f"/v1/engines/{ECHO}/jobs", json={"input": 1}), 404, "ENGINE_DOES_NOT_EXIST")


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


async def test_only_an_operator_may_stop_engines(world: GatewayWorld) -> None:
    for action in ("quarantine", "purge"):
        await refused(world, "POST", f"/v1/engines/echo/{action}", 403, "FORBIDDEN", json={"reason": "no"})
