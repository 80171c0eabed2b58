"""After a store was restored to an older state, the gateway writes its ends again, so that no job runs again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, STANDARD, Clock, GatewayWorld, gateway_world, impatient
from tests.support.scripted_runner import fail, succeed

from enginehouse.contracts import names
from enginehouse.contracts.job import Status
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=impatient(clock)) as made:
        yield made


async def test_its_ends_are_written_again_so_that_nobody_runs_them_again(world: GatewayWorld) -> None:
    store = world.dapr.stores[names.results_component(ECHO)]
    kept = await world.submit("kept")
    await world.until_status(kept, Status.SUCCEEDED)
    await world.sweep()
    older = dict(store)
    world.runner.answer = fail
    lost = [await world.submit(number) for number in range(3)]
    for job_id in lost:
        await world.until_status(job_id, Status.FAILED)
    before = {job_id: world.record(job_id) for job_id in lost}
    store.clear()
    store.update(older)
    world.dapr.fail("read_many")
    await world.sweep()
    assert world.record(lost[0]) is None, "the store did not answer yet"
    world.runner.answer = succeed
    later = await world.submit("later")
    await world.until_status(later, Status.SUCCEEDED)
    await world.sweep()
    assert {job_id: world.record(job_id) for job_id in lost} == before


async def test_also_by_a_gateway_that_was_not_there(tmp_path: Path) -> None:
    dapr = FakeDapr()
    async with gateway_world(tmp_path, dapr=dapr) as world:
        job_id = await world.submit({"n": [1, 2.5]})
        await world.until_status(job_id, Status.SUCCEEDED)
        before = world.record(job_id)
    dapr.handlers.clear()
    dapr.stores[names.results_component(ECHO)].clear()
    async with gateway_world(tmp_path, dapr=dapr) as world:
        await world.sweep()
        assert world.record(job_id) == before


@pytest.fixture
async def brief(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    """A gateway that gives a store that hangs one second."""
    async with gateway_world(tmp_path, pace=replace(impatient(clock), store_seconds=1)) as made:
        yield made


async def test_a_store_that_hangs_keeps_no_other_from_being_looked_at(
    brief: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await brief.until_status(await brief.submit(), Status.SUCCEEDED)
    job_id = await brief.submit(engine="standard")
    await brief.until_status(job_id, Status.SUCCEEDED)
    before = brief.record(job_id, STANDARD)
    await brief.idle()
    brief.dapr.stores[names.results_component(STANDARD)].clear()
    sidecar = brief.gateway.sidecar
    read_many = sidecar.read_many

    async def hang(store: str, keys: Any) -> Any:
        await asyncio.sleep(3_600 if store == names.results_component(ECHO) else 0)
        return await read_many(store, keys)

    monkeypatch.setattr(sidecar, "read_many", hang)
    await asyncio.wait_for(brief.sweep(), 20)
    assert brief.record(job_id, STANDARD) == before


async def test_its_engine_stays_quarantined(world: GatewayWorld) -> None:
    store = world.dapr.stores[names.results_component(ECHO)]
    await world.until_status(await world.submit(), Status.SUCCEEDED)
    answer = await world.client("admin").post(f"/v1/engines/{ECHO}/quarantine", json={"reason": "it lies"})
    assert answer.status_code == 200
    stopped = store[names.CONTROL_KEY].value
    store.clear()
    await world.sweep()
    assert store[names.CONTROL_KEY].value == stopped
