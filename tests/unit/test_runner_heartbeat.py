"""Heartbeats and the list of workers."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.runner import ENGINE, STORE, Gate, World, begin, other_worker, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import Heartbeat, WorkerList
from enginehouse.runner.pace import Pace
from enginehouse.sidecar.base import Conflict
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        await until_async(lambda: listed(made))
        yield made


def beat_of(world: World, worker: str = "worker-1") -> Heartbeat | None:
    entry = world.dapr.stores[STORE].get(names.worker_key(worker))
    return Heartbeat.model_validate_json(entry.value) if entry else None


def listed(world: World) -> list[str]:
    entry = world.dapr.stores[STORE].get(names.WORKERS_KEY)
    return WorkerList.model_validate_json(entry.value).workers if entry else []


async def latest(world: World) -> Heartbeat:
    await world.runner.heartbeats.beat()
    beat = beat_of(world)
    assert beat is not None
    return beat


async def test_a_heartbeat_says_what_is_in_hand(world: World) -> None:
    assert (await latest(world)).idle_since is not None
    gate = Gate(world)
    job_id = names.new_job_id()
    delivery = begin(world, job_id)
    await until_async(lambda: gate.entered)
    beat = await latest(world)
    assert (beat.in_hand, beat.idle_since, beat.concurrency, beat.healthy) == ([job_id], None, 2, True)
    gate.open.set()
    await delivery
    assert (await latest(world)).in_hand == []
    assert (await latest(world)).idle_since == (await latest(world)).idle_since


async def test_a_heartbeat_says_what_slows_the_engine_as_long_as_the_engine_says_so(world: World) -> None:
    (replica,) = world.runner.pool.replicas
    for said, shown in (("it blocks" + "!" * 1_000, "it blocks" + "!" * 290 + "…"), (None, None)):
        world.engine.warning = said
        await replica.client.health()
        assert (await latest(world)).warning == shown


async def test_a_heartbeat_says_whether_the_slot_receives_jobs(world: World) -> None:
    assert not (await latest(world)).subscribed
    world.dapr.subscribe(names.job_topic(ENGINE), world.runner.receiver.deliver)
    assert not (await latest(world)).subscribed, "through which component?"
    world.dapr.components.add(names.jobs_component(ENGINE))
    assert (await latest(world)).subscribed
    assert not (await latest(world)).on_trial
    world.dapr.subscribe(names.trial_topic(ENGINE), world.runner.receiver.deliver)
    assert (await latest(world)).on_trial


async def test_who_is_told_of_a_change_of_routing_finds_the_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[list[str], Heartbeat | None]] = []
    monkeypatch.setattr(world.runner.heartbeats, "_on_routed", lambda: found.append((listed(world), beat_of(world))))
    del world.dapr.stores[STORE][names.WORKERS_KEY]
    world.dapr.subscribe(names.trial_topic(ENGINE), world.runner.receiver.deliver)
    world.dapr.components.add(names.jobs_component(ENGINE))
    await until_async(lambda: found)
    (listing, beat), *_ = found
    assert listing == ["worker-1"]
    assert beat is not None
    assert beat.on_trial


async def test_a_heartbeat_runs_out(world: World) -> None:
    expires = world.dapr.stores[STORE][names.worker_key("worker-1")].expires_at
    assert expires is not None


async def test_the_list_is_written_once_and_again_when_it_went_missing(world: World) -> None:
    assert listed(world) == ["worker-1"]
    writes = world.dapr.calls["create"] + world.dapr.calls["replace"]
    await world.runner.heartbeats.beat()
    assert world.dapr.calls["create"] + world.dapr.calls["replace"] == writes
    del world.dapr.stores[STORE][names.WORKERS_KEY]
    await world.runner.heartbeats.beat()
    assert listed(world) == ["worker-1"]


async def test_joining_drops_the_vanished_and_keeps_the_living(tmp_path: Path) -> None:
    dapr = FakeDapr()
    async with runner_world(tmp_path, dapr=dapr) as one:
        await until_async(lambda: listed(one))
        await other_worker(one, [], "worker-3")
        names_there = WorkerList(workers=["worker-1", "worker-3", "worker-9"]).model_dump_json().encode()
        await one.sidecar.put(STORE, names.WORKERS_KEY, names_there)
        async with runner_world(tmp_path, dapr=dapr, worker="worker-2") as two:
            await until_async(lambda: listed(two) == ["worker-1", "worker-2", "worker-3"])
        assert listed(one) == ["worker-1", "worker-3"]
        assert beat_of(one, "worker-2") is None


async def test_a_conflict_is_tried_again(world: World) -> None:
    del world.dapr.stores[STORE][names.WORKERS_KEY]
    world.dapr.fail("create", Conflict("somebody was first"), on=names.WORKERS_KEY)
    await world.runner.heartbeats.beat()
    assert listed(world) == ["worker-1"]


async def test_a_broken_list_is_replaced(world: World) -> None:
    await world.sidecar.put(STORE, names.WORKERS_KEY, json.dumps([1]).encode())
    await world.runner.heartbeats.beat()
    assert listed(world) == ["worker-1"]


async def test_trouble_ends_no_heart(tmp_path: Path) -> None:
    dapr = FakeDapr()
    dapr.fail("put", times=3)
    async with runner_world(tmp_path, dapr=dapr, pace=Pace(heartbeat_seconds=0.01)) as world:
        await until_async(lambda: beat_of(world))
