"""Secrets, which the registry may not list, come back; what pods show of them says nothing; and objects of others are not ours."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.deployer import ENGINE, PLACE, FakeGateway, World, make_quick, running, until
from tests.support.fake_cluster import FakeCluster

from enginehouse.registry import deploy
from enginehouse.registry.deployer import engine
from enginehouse.registry.deployer.health import slot_health
from enginehouse.registry.deployer.kinds import DEPLOYMENT, POD, SECRET, Kind, Ref
from enginehouse.registry.kubernetes.labels import pod_labels
from enginehouse.registry.secrets import set_secret
from enginehouse.registry.tenants import add_tenant

OWN = Ref(SECRET, PLACE, f"{ENGINE}-secrets")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    make_quick(monkeypatch)
    add_tenant(tmp_path / "tenants", "acme")
    async with running(tmp_path, FakeCluster(), FakeGateway()) as found:
        yield found


async def test_an_engine_that_comes_again_has_its_secrets(world: World) -> None:
    set_secret(world.home, ENGINE, "TOKEN", "abc")
    world.deploy("v1", secrets=["TOKEN"])
    await until(lambda: world.state() == "running", "the engine to run")
    deploy.remove_engine(world.home / "engines", ENGINE)
    world.gateway.state = "retired"
    await until(lambda: not (world.home / "engines" / ENGINE).exists(), "the engine to be gone")
    await until(lambda: ENGINE not in world.deployer.engines, "nobody to keep it")
    assert OWN not in world.cluster.objects
    world.gateway.state = "active"
    set_secret(world.home, ENGINE, "TOKEN", "abc")
    world.deploy("v2", secrets=["TOKEN"])
    await until(lambda: world.state() == "running", "the engine to run again")
    assert OWN in world.cluster.objects


async def test_the_next_version_finds_a_secret_that_was_deleted(world: World) -> None:
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    await world.cluster.delete(Ref(SECRET, PLACE, ENGINE))
    world.deploy("v2")
    await until(lambda: Ref(SECRET, PLACE, ENGINE) in world.cluster.objects, "the Secret to come back")


@pytest.mark.parametrize("kind", ["deployment", "pod"])
async def test_a_secret_that_was_deleted_comes_back_when_a_pod_cannot_start(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(engine, "_TRUSTING_SECONDS", 0.2)
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    await world.cluster.delete(Ref(SECRET, PLACE, ENGINE))
    if kind == "pod":  # As one that KEDA has made, whose number is not the Deployment's.
        _put(world, f"{ENGINE}--a-new", PLACE, {"phase": "Pending"})
    else:
        world.cluster.get_unready(world.ref(f"{ENGINE}--a"))
    await until(lambda: Ref(SECRET, PLACE, ENGINE) in world.cluster.objects, "the Secret to come back")


def _put(world: World, name: str, place: str, status: dict[str, Any], kind: Kind = POD, **labels: str) -> None:
    metadata = {
        "name": name,
        "namespace": place,
        "uid": f"uid-{place}-{name}",
        "labels": {**pod_labels(ENGINE, "a", "runner"), **labels},
        "creationTimestamp": "2099-01-01T00:00:00Z",
    }
    world.cluster.add(Ref(kind, place, name), {"metadata": metadata, "spec": {}, "status": status})


@pytest.mark.parametrize("place", ["default", "enginehouse", "tenant-umbra"])
@pytest.mark.parametrize("kind", [POD, DEPLOYMENT])
async def test_an_object_elsewhere_with_an_engines_labels_is_not_its(world: World, place: str, kind: Kind) -> None:
    add_tenant(world.home / "tenants", "umbra")
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    bringing = world.deployer.context.bringing
    ours = [ref for ref, _ in bringing.inventory.of(ENGINE)]
    status = {"podIP": "192.0.2.6", "containerStatuses": [{"name": "one", "state": {"running": {}}}]}
    _put(world, "foreign", place, status, kind)
    _put(world, "foreign-too", place, status, kind, **{"enginehouse.dev/tenant": "umbra"})
    add_tenant(world.home / "tenants", "tyrell")
    await until(lambda: "tyrell" in world.deployer.tenants, "the events to be read")
    await until(lambda: any("tyrell" in str(ref) for ref in bringing.inventory.found), "the events to be read")
    assert [ref for ref, _ in bringing.inventory.of(ENGINE)] == ours
    assert slot_health(bringing, ENGINE, "a").runner == "10.1.1.1"
    deploy.remove_engine(world.home / "engines", ENGINE)
    world.gateway.state = "retired"
    await until(lambda: not (world.home / "engines" / ENGINE).exists(), "the engine to be gone")
    assert Ref(kind, place, "foreign") in world.cluster.objects


async def test_nobody_can_try_which_secret_a_pod_has(world: World) -> None:
    set_secret(world.home, ENGINE, "PIN", "1234")
    world.deploy("v1", secrets=["PIN"])
    await until(lambda: world.state() == "running", "the engine to run")
    template = world.cluster.objects[world.ref(f"{ENGINE}--a")]["spec"]["template"]
    shown = template["metadata"]["annotations"]["enginehouse.dev/credentials"]
    assert shown
    for content in ({"": {"PIN": "1234"}}, {"PIN": "1234"}):
        assert not hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest().startswith(shown)
