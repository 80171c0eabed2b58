"""Stores that hang hold up the sweep for a bounded time, and no caller."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, GatewayWorld, gateway_world
from tests.support.scripted_runner import lose
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.errors import Unavailable
from enginehouse.gateway.pace import Pace
from enginehouse.gateway.store_budget import StoreBudget

HANGING = [f"acme--broken-{number}" for number in range(70)]
"""More engines than the sweep looks at together."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, engines=[ECHO, *HANGING], pace=Pace(store_seconds=60)) as made:
        yield made


async def test_a_caller_does_not_wait_for_a_sweep_over_many_stores_that_hang(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for runner in world.runners.values():
        runner.answer = lose
    for engine in HANGING:
        await world.aged(await world.submit(engine=engine), 60)
    job_id = await world.submit()
    sidecar, hanging = world.gateway.sidecar, set[str]()
    read_many = sidecar.read_many

    async def hang(store: str, keys: Any) -> Any:
        if store != names.results_component(ECHO):
            hanging.add(store)
            await asyncio.sleep(3_600)
        return await read_many(store, keys)

    monkeypatch.setattr(sidecar, "read_many", hang)
    sweep = asyncio.create_task(world.sweep())
    try:
        await until_async(lambda: len(hanging) >= 64)
        began = time.monotonic()
        canceled = await world.client().post(f"/v1/jobs/{job_id}/cancel")
        shown = await world.client().get("/v1/engines/echo")
        assert (canceled.status_code, canceled.json()["status"], shown.status_code) == (202, "canceled", 200)
        assert time.monotonic() - began < 10
        assert not sweep.done(), "the sweep was over before the caller was answered"
    finally:
        sweep.cancel()
        await asyncio.gather(sweep, return_exceptions=True)


async def test_without_places_all_stores_may_be_used_at_once() -> None:
    budget, inside = StoreBudget(5), asyncio.Barrier(100)

    async def use() -> None:
        async with budget.spend():
            await inside.wait()

    await asyncio.wait_for(asyncio.gather(*(use() for _ in range(100))), 20)


async def test_the_time_begins_with_the_place_and_ends_in_unavailable() -> None:
    budget = StoreBudget(0.1, at_once=1)

    async def hang() -> None:
        async with budget.spend():
            await asyncio.sleep(3_600)

    outcomes = await asyncio.gather(hang(), hang(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
