"""A tenant that is removed leaves nothing in the ledger, the objects and the stores; nobody else's jobs are touched."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select
from tests.support.gateway import ECHO, STANDARD, UNHURRIED, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.scripted_runner import never

from enginehouse.contracts import names
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger.schema import metadata
from enginehouse.gateway.recovery.removed_tenants import RemovedTenants


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=UNHURRIED, objects_url=(tmp_path / "objects").as_uri()) as made:
        yield made


def _remove(world: GatewayWorld, tenant: str = "acme") -> None:
    file = world.gateway.settings.tenants_dir / tenant / "tenant.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "removed": True}))
    world.gateway.tenants.load()


async def _dump(world: GatewayWorld) -> str:
    """The whole ledger as text."""

    def rows(connection: Any) -> list[Any]:
        return [list(map(tuple, connection.execute(select(table)))) for table in metadata.tables.values()]

    return repr(await world.gateway.ledger.read(rows))


def _objects(tmp_path: Path, tenant: str) -> list[Path]:
    return [path for path in (tmp_path / "objects" / tenant).rglob("*") if path.is_file()]


async def _left(world: GatewayWorld, tenant: str = "acme") -> Any:
    return (await world.client("admin").get(f"/v1/tenants/{tenant}/data")).json()


async def test_nothing_is_left_of_it_and_others_go_on(world: GatewayWorld, tmp_path: Path) -> None:
    world.runners[STANDARD].answer = never
    on_shared = await world.submit("acme's secret", engine="standard")
    others = await world.submit("umbra's", tenant="umbra", engine="standard")
    await world.until_status(on_shared, Status.RUNNING)
    done = await world.submit("acme's own")
    await world.until_status(done, Status.SUCCEEDED)
    await world.client().post("/v1/uploads", json={})
    large = await world.submit("x" * 200_000)
    assert _objects(tmp_path, "acme")
    assert "acme" in await _dump(world)

    _remove(world)
    assert (await world.client().get("/v1/jobs")).status_code == 401, "its key stops at once"
    world.dapr.components.add(names.retired_component(ECHO))
    await world.gateway.catalogue.refresh()
    assert (await _left(world))["removed"]
    await world.sweep()
    world.dapr.components -= {names.results_component(ECHO), names.retired_component(ECHO)}
    await world.gateway.catalogue.refresh()
    await world.sweep()

    assert await _left(world) == {"tenant": "acme", "removed": True, "rows": 0, "objects": False}
    assert "acme" not in await _dump(world)
    assert not _objects(tmp_path, "acme")
    record = world.record(on_shared, STANDARD)
    assert record
    assert (record.status, record.output, record.error) == (Status.CANCELED, None, None)
    assert large not in await _dump(world)
    event = next(event for event in world.runners[STANDARD].events if event.id == others)
    await world.runners[STANDARD].end(event, output="done")
    assert (await world.job(others, tenant="umbra", wait=10))["status"] == "succeeded"
    assert (await _left(world, "umbra"))["removed"] is False
    assert (await _left(world, "umbra"))["rows"] > 0


async def test_what_comes_late_is_deleted_by_the_next_sweep(world: GatewayWorld, tmp_path: Path) -> None:
    signed = (await world.client().post("/v1/uploads", json={})).json()["url"]
    caller = world.gateway.tenants.as_caller("acme")
    assert caller
    _remove(world)
    await world.sweep()
    problem_of(await world.client().put(signed.partition("8080")[2], content=b"late"), 403, "FORBIDDEN")
    event = {"specversion": "1.0", "id": "1", "source": "/a", "type": "t", "engineid": "standard", "data": 1}
    assert not await world.gateway.events.deliver(json.dumps(event).encode(), "acme"), "no tenant, so no job"
    await world.gateway.notifier.send_event("acme", "late", {})
    assert (await _left(world))["rows"] == 1
    await world.sweep()
    assert (await _left(world))["rows"] == 0


async def test_objects_that_cannot_be_deleted_are_told_of(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.client().post("/v1/uploads", json={})
    _remove(world)

    async def out_of_reach(_: str) -> int:
        raise Unavailable("the object store cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(type(world.gateway.removed_tenants.objects), "delete_tenant", staticmethod(out_of_reach))
        await world.sweep()
    assert (await _left(world))["objects"], "its removal goes on"
    await world.sweep()
    assert not (await _left(world))["objects"]


async def test_only_administrators_see_what_is_left(world: GatewayWorld) -> None:
    problem_of(await world.client().get("/v1/tenants/acme/data"), 403, "FORBIDDEN")


@pytest.mark.parametrize(("engine", "keeps"), [(STANDARD, True), (names.trial_of(STANDARD), True), (ECHO, False)])
async def test_records_stay_only_in_the_stores_of_others(world: GatewayWorld, engine: str, keeps: bool) -> None:
    gateway = world.gateway
    removing = RemovedTenants(gateway.ledger, None, gateway.tenants, gateway.catalogue, gateway.jobs.records)
    assert removing._keeps_records(engine, "acme") is keeps
