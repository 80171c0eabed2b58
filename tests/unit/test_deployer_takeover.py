"""A version that takes over is as large as the one before: what serves is not thrown away."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.deployer import ENGINE, PLACE, FakeGateway, World, make_quick, running, until
from tests.support.fake_cluster import FakeCluster

from enginehouse.registry.deployer import takeover
from enginehouse.registry.deployer.kinds import SCALED_OBJECT, SUBSCRIPTION, Ref
from enginehouse.registry.tenants import add_tenant

NEXT, FORMER = f"{ENGINE}--b", f"{ENGINE}--a"
SUBSCRIBED = Ref(SUBSCRIPTION, PLACE, ENGINE)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    make_quick(monkeypatch)
    add_tenant(tmp_path / "tenants", "acme")
    async with running(tmp_path, FakeCluster(), FakeGateway()) as found:
        yield found


def _replicas(world: World, name: str) -> tuple[int, int]:
    """Return how many replicas a Deployment is to have, and how many are ready."""
    found = world.cluster.objects.get(world.ref(name))
    return (found["spec"].get("replicas", 1), found["status"]["availableReplicas"]) if found else (0, 0)


def _gets_jobs(world: World) -> str:
    found: str = world.cluster.objects[SUBSCRIBED]["spec"]["pubsubname"]
    return found.removeprefix("jobs-")


@pytest.mark.parametrize(
    ("scale", "size"), [({"min": 2, "max": 8}, 5), ({"min": 5, "max": 5}, 5), ({"min": 1, "max": 3}, 3)]
)
async def test_the_version_before_serves_until_the_next_is_as_large(
    world: World, scale: dict[str, int], size: int
) -> None:
    world.deploy("v1", scale={"min": 5, "max": 5})
    await until(lambda: world.state() == "running", "the engine to run")
    world.cluster.room[NEXT] = size - 1
    world.deploy("v2", scale=scale)
    await until(lambda: world.active() == "b", "the version to be promoted")
    await until(lambda: _replicas(world, NEXT) == (size, size - 1), "it to grow")
    said = f"{size - 1} of {size} replicas are ready"
    await until(
        lambda: said in str(getattr(world.what_runs().active(ENGINE), "doing", "")), "what it waits for to be said"
    )
    assert _gets_jobs(world) == FORMER
    assert _replicas(world, FORMER) == (5, 5)
    assert Ref(SCALED_OBJECT, PLACE, NEXT) not in world.cluster.objects, "it would shrink again"
    del world.cluster.room[NEXT]
    world.cluster.get_ready(world.ref(NEXT))
    await until(lambda: _gets_jobs(world) == NEXT, "it to get the jobs")
    await until(lambda: world.ref(FORMER) not in world.cluster.objects, "the version before to go")
    assert _replicas(world, NEXT) == (size, size)
    assert (Ref(SCALED_OBJECT, PLACE, NEXT) in world.cluster.objects) == (scale["min"] != scale["max"])


async def test_a_version_for_which_there_is_no_room_takes_over_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "_GROW_SECONDS", 2.0)
    world.deploy("v1", scale={"min": 5, "max": 5})
    await until(lambda: world.state() == "running", "the engine to run")
    world.cluster.room[NEXT] = 1
    world.deploy("v2", scale={"min": 1, "max": 5})
    await until(lambda: _replicas(world, NEXT) == (5, 1), "it to grow")
    assert _gets_jobs(world) == FORMER
    await until(lambda: _gets_jobs(world) == NEXT, "it to take over all the same")
    await until(lambda: world.ref(FORMER) not in world.cluster.objects, "the version before to go")
