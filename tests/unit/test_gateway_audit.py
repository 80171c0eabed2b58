"""The gateway records every call and every end of a job: who, what, how long, how it ended; never what was sent."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.gateway import ECHO, PRIVATE, TOKEN, GatewayWorld, gateway_world
from tests.support.gateway_engines import engine, operate, submit_many
from tests.support.problems import problem_of
from tests.support.scripted_runner import fail, never
from tests.support.waiting import until_async

from enginehouse.audit.read import Query, read_page
from enginehouse.audit.verify import verify
from enginehouse.contracts.audit import AuditEntry
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.job import Status
from enginehouse.gateway.app import create_delivery_app

SUBMIT = "POST /v1/engines/{engine}/jobs"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(
        tmp_path, audit_dir=tmp_path / "audit", objects_url=(tmp_path / "objects").as_uri()
    ) as made:
        yield made


async def entries(world: GatewayWorld) -> list[AuditEntry]:
    """Return all entries so far, oldest first."""
    await world.gateway.audit._flush()
    folder = world.gateway.settings.audit_dir
    assert folder
    return [one.entry for one in reversed(read_page(folder, Query(), None, 1_000).entries)]


async def shown(world: GatewayWorld, caller: str, /, **query: Any) -> list[dict[str, Any]]:
    await world.gateway.audit._flush()
    answer = await world.client(caller).get("/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["entries"]
    return found


async def test_a_job_has_an_entry_for_its_submit_and_one_for_its_end(world: GatewayWorld) -> None:
    headers = {"X-Request-Id": "mine-1"}
    answer = await world.client().post("/v1/engines/echo/jobs", json={"input": "words of acme"}, headers=headers)
    job_id = answer.json()["id"]
    await world.until_status(job_id, Status.SUCCEEDED)

    async def two() -> list[AuditEntry]:
        found = [one for one in await entries(world) if one.job == job_id and "{job_id}" not in one.action]
        return found if len(found) == 2 else []

    submitted, ended = await until_async(two)
    assert (submitted.action, submitted.outcome, submitted.status) == (SUBMIT, "ok", 202)
    assert (submitted.by, submitted.key, submitted.tenant) == ("acme", world.keys["acme"][:8], "acme")
    assert (submitted.engine, submitted.request_id, submitted.times) == (ECHO, "mine-1", 1)
    assert (ended.action, ended.outcome, ended.by, ended.tenant) == ("job ended", "succeeded", None, "acme")
    assert (ended.engine, ended.version) == (ECHO, (await world.job(job_id))["version"])
    assert submitted.ms
    assert ended.ms
    assert ended.ms > 0


async def test_no_entry_has_a_payload_or_a_key(world: GatewayWorld, tmp_path: Path) -> None:
    client, secret = world.client(), "pssst-7f3a"
    await world.submit(secret)
    await client.post("/v1/jobs", json={"input": secret, "webhook": f"https://{secret}.example/"})
    await client.post(f"/v1/engines/{secret.upper()}/jobs", json={"input": secret})
    await client.get(f"/v1/{secret}", params={"q": secret})
    await client.get(f"/v1/jobs/{secret}")
    await client.get("/v1/jobs", params={"cursor": secret})
    await client.get("/v1/jobs", headers={"Authorization": f"Bearer {secret}"})
    await operate(world, "quarantine", {"reason": secret})
    count = len(await entries(world))
    written = b"".join(path.read_bytes() for path in (tmp_path / "audit").rglob("*.jsonl")).lower()
    assert count >= 9
    assert secret.encode() not in written
    assert not any(key.lower().encode() in written for key in world.keys.values())


async def test_a_batch_and_an_event_have_an_entry_for_each_job(world: GatewayWorld) -> None:
    batch = [{"engine": "echo", "input": n} for n in range(3)] + [{"engine": "nobody", "input": 0}]
    answer = await world.client().post("/v1/jobs/batch", json={"jobs": batch})
    jobs = [job["id"] for job in answer.json()["jobs"] if "id" in job]
    found = [entry for entry in await entries(world) if entry.action == "POST /v1/jobs/batch"]
    assert sorted(str(entry.job) for entry in found) == sorted(jobs)
    assert {entry.engine for entry in found} == {ECHO}


def _raw(event: dict[str, Any]) -> dict[str, Any]:
    return {"json": event, "headers": {"dapr-api-token": TOKEN, "content-type": "application/cloudevents+json"}}


@pytest.mark.parametrize(("engine", "outcome"), [("echo", "ok"), ("nobody", "ENGINE_DOES_NOT_EXIST")])
async def test_an_event_of_a_topic_is_a_call_of_its_tenant(world: GatewayWorld, engine: str, outcome: str) -> None:
    data = {"engine": engine, "input": 1}
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "dev.enginehouse.job.requested.v1", "data": data}
    deliveries = httpx2.ASGITransport(create_delivery_app(world.gateway))
    async with httpx2.AsyncClient(transport=deliveries, base_url="http://sidecar") as sidecar:
        answer = await sidecar.post("/requests/acme", **_raw(event))
    assert answer.status_code == 200, answer.text
    (found,) = [entry for entry in await entries(world) if entry.action == "event on requests.{tenant}"]
    assert (found.outcome, found.by, found.key, bool(found.job)) == (outcome, "acme", None, outcome == "ok")


async def test_refused_calls_have_their_code_and_nobody_can_fill_the_disk(world: GatewayWorld) -> None:
    stranger = httpx2.AsyncClient(transport=httpx2.ASGITransport(world.app), base_url="http://gateway")
    async with stranger:
        for n in range(200):
            answer = await stranger.post("/v1/jobs", json={}, headers={"Authorization": f"Bearer eh_acme_{n}"})
            assert answer.status_code == 401
    assert (await world.client().post(f"/v1/engines/{ECHO}/purge")).status_code == 403
    assert (await world.client().get(f"/v1/engines/{PRIVATE}")).status_code == 404
    found = await entries(world)
    refused = [entry for entry in found if entry.outcome == "UNAUTHENTICATED"]
    assert 50 <= len(refused) < 100
    assert {(entry.action, entry.status, entry.by, entry.tenant) for entry in refused} == {
        ("POST /v1/jobs", 401, None, None)
    }
    assert [(one.action, one.outcome, one.engine) for one in found if one.by == "acme" and one.outcome != "ok"] == [
        ("POST /v1/engines/{engine}/purge", "FORBIDDEN", ECHO),
        ("GET /v1/engines/{engine}", "ENGINE_DOES_NOT_EXIST", PRIVATE),
    ]


async def test_the_counted_refusals_are_written_at_the_end(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, audit_dir=tmp_path / "audit") as world:
        for _ in range(100):
            await world.client().get("/v1/nothing")
    found = [one.entry for one in read_page(tmp_path / "audit", Query(outcome="REFUSED"), None, 10).entries]
    assert [(entry.by, 100 - 60 < entry.times <= 50) for entry in found] == [("acme", True)]
    assert [one.faults for one in verify(tmp_path / "audit")] == [[]]


async def test_tenants_see_their_own_and_operators_all(world: GatewayWorld) -> None:
    await world.submit()
    await world.client("umbra").get("/v1/engines")
    await operate(world, "quarantine", {"reason": "it lies"})
    (act,) = await shown(world, "acme", action="quarantine")
    assert (act["by"], act["tenant"], act["engine"]) == ("operators", "acme", ECHO)
    assert (act["key"], act["user"], act["request_id"]) == (None, None, None)
    await world.submit(tenant="admin", engine="standard")
    (job,) = [entry for entry in await shown(world, "admin", action=SUBMIT) if entry["by"] == "operators"]
    assert job["tenant"] == "operators"
    (act,) = await shown(world, "admin", action="quarantine", tenant="acme")
    assert act["key"] == world.keys["admin"][:8]
    assert {entry["by"] or entry["tenant"] for entry in await shown(world, "umbra")} == {"umbra"}
    assert await shown(world, "umbra", engine=ECHO) == []
    assert {"acme", "umbra", "operators"} <= {entry["by"] for entry in await shown(world, "admin")}
    refused = await world.client("umbra").get("/v1/audit", params={"tenant": "acme"})
    assert problem_of(refused, 403)["code"] == "FORBIDDEN"


async def test_pages_follow_each_other(world: GatewayWorld) -> None:
    jobs = [await world.submit(n) for n in range(7)]
    await world.gateway.audit._flush()
    found, cursor = list[str](), ""
    while True:
        query: dict[str, str | int] = {"action": SUBMIT, "limit": 3, **({"cursor": cursor} if cursor else {})}
        page = (await world.client().get("/v1/audit", params=query)).json()
        found += [entry["job"] for entry in page["entries"]]
        if not (cursor := page["next_cursor"]):
            break
    assert found == jobs[::-1]
    always = {"since": "0001-01-01T00:00:00+12:00", "until": "9999-12-31T23:59:59-12:00", "limit": "1000"}
    assert len(await shown(world, "acme", **always)) >= 7
    for wrong in ("x", "gateway:1,", "../x:1", "gateway:-1"):
        problem_of(await world.client().get("/v1/audit", params={"cursor": wrong}), 422)
    for moment in ("0.5", "1764201600", "2026-11-26", "soon"):
        problem_of(await world.client().get("/v1/audit", params={"until": moment}), 422)


async def test_calls_that_need_no_key_are_left_out_and_signed_ones_are_the_tenants(world: GatewayWorld) -> None:
    for path in ("/healthz/live", "/healthz/ready", "/metrics", "/docs"):
        await world.client("acme").get(path, headers={"Authorization": ""})
    upload = (await world.client().post("/v1/uploads", json={})).json()
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(world.app)) as anybody:
        assert (await anybody.put(upload["url"], content=b"x")).status_code == 201
    found = [(one.action, one.by, one.tenant) for one in await entries(world) if one.action != "started"]
    assert found == [("POST /v1/uploads", "acme", "acme"), ("PUT /v1/objects/{key}", None, "acme")]


async def test_a_caller_that_leaves_has_an_entry(world: GatewayWorld) -> None:
    world.runner.answer = never
    waiting = asyncio.create_task(
        world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Prefer": "wait=30"})
    )
    await until_async(lambda: world.gateway.jobs.waiters._endings)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (found,) = [entry for entry in await entries(world) if entry.action == SUBMIT]
    assert (found.outcome, found.status, bool(found.job)) == ("DISCONNECTED", None, True)


async def test_what_the_breaker_decides_is_recorded(world: GatewayWorld) -> None:
    world.runner.answer = fail
    await submit_many(world, 10)
    await until_async(lambda: engine(world).state is EngineState.PAUSED)
    await operate(world, "resume")
    found = [entry for entry in await entries(world) if entry.action.startswith("engine ")]
    assert [(entry.action, entry.by, entry.tenant, entry.engine, entry.detail) for entry in found] == [
        ("engine paused", None, "acme", ECHO, "by the breaker: 10 jobs in a row failed; the last: PREDICT_ERROR")
    ]


async def test_no_route_is_forgotten(world: GatewayWorld) -> None:
    """Calls every route of the OpenAPI document, with a key and mostly in vain."""
    wanted = set()
    for path, methods in world.app.openapi()["paths"].items():
        for method in methods:
            if method not in ("get", "post", "put", "patch", "delete") or path == "/v1/audit":
                continue
            given = re.sub(r"\{\w+\}", "nothing", path)
            await world.client("admin").request(method.upper(), given, json={})
            wanted.add(f"{method.upper()} {path}")
    await world.gateway.audit._flush()
    assert len(wanted) > 30
    seen = {entry.action for entry in await entries(world)}
    assert wanted - seen == set()
