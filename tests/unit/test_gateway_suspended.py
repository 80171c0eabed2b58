"""A suspended tenant makes no new work, by no way in; what it has goes on, and nobody else notices."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.gateway import UNHURRIED, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.scripted_runner import never
from tests.support.waiting import until_async

from enginehouse.contracts.job import Status

_CODE = "TENANT_SUSPENDED"
_EVENT = {"specversion": "1.0", "id": "1", "source": "/crm", "type": "com.acme.asked", "engineid": "echo", "data": "hi"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(
        tmp_path, pace=UNHURRIED, objects_url=(tmp_path / "objects").as_uri(), sweep_seconds=0.05
    ) as made:
        yield made


def _set(world: GatewayWorld, *, suspended: bool) -> None:
    file = world.gateway.settings.tenants_dir / "acme" / "tenant.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "suspended": suspended}))
    world.gateway.tenants.load()


async def test_every_way_to_make_work_is_refused_and_results_can_be_read(world: GatewayWorld) -> None:
    done = await world.submit("before")
    await world.until_status(done, Status.SUCCEEDED)
    _set(world, suspended=True)
    client = world.client()
    ways: list[tuple[str, Any, dict[str, str]]] = [
        ("/v1/engines/echo/jobs", {"input": 1}, {}),
        ("/v1/jobs", {"engine": "echo", "input": 1}, {}),
        ("/v1/jobs/batch", {"jobs": [{"engine": "echo", "input": 1}]}, {}),
        (f"/v1/jobs/{done}/retry", None, {}),
        ("/v1/uploads", {}, {}),
        ("/v1/engines/echo/call/warm", {}, {}),
        ("/v1/engines:update", {}, {}),
        ("/v1/engines/echo/replay", {}, {}),
        ("/v1/events", _EVENT, {"content-type": "application/cloudevents+json"}),
        ("/v1/events", [_EVENT], {"content-type": "application/cloudevents-batch+json"}),
    ]
    for path, body, headers in ways:
        content = None if body is None else json.dumps(body)
        answer = await client.post(path, content=content, headers={"content-type": "application/json", **headers})
        problem_of(answer, 403, _CODE)
    assert (await world.stored())["jobs"] == 1
    assert (await world.job(done))["output"] == {"echo": "before"}
    assert (await client.get("/v1/jobs")).json()["jobs"][0]["id"] == done
    await world.submit(tenant="umbra", engine="standard")


async def test_jobs_that_were_accepted_end_and_can_be_canceled(world: GatewayWorld) -> None:
    world.runner.answer = never
    running, queued = await world.submit("runs"), await world.submit("waits")
    await world.until_status(running, Status.RUNNING)
    _set(world, suspended=True)
    assert (await world.client().post(f"/v1/jobs/{queued}/cancel")).status_code == 202
    event = next(event for event in world.runner.events if event.id == running)
    await world.runner.end(event, output="done")
    assert (await world.until_status(running, Status.SUCCEEDED))["output"] == "done"


async def test_its_events_end_with_a_refusal_on_its_own_topic(world: GatewayWorld) -> None:
    _set(world, suspended=True)
    assert await world.gateway.events.deliver(json.dumps(_EVENT).encode(), "acme")
    await until_async(lambda: world.dapr.published.get("finished.acme"))
    [refusal] = world.dapr.published["finished.acme"]
    said = json.loads(refusal)["data"]
    assert (said["code"], said["event"]["id"], said["event"]["source"]) == (_CODE, "1", "/crm")
    _set(world, suspended=False)
    assert await world.gateway.events.deliver(json.dumps(_EVENT).encode(), "acme")
    assert (await world.stored())["jobs"] == 1
