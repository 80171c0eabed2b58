"""One wrong file, or a mistake of ours, stops neither the deployer nor what it does for others, and is shown."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.support.deployer import ENGINE, FakeGateway, World, make_quick, running, until
from tests.support.fake_cluster import FakeCluster

from enginehouse.registry.deployer import deployer, tenant
from enginehouse.registry.deployer.deployer import Deployer
from enginehouse.registry.deployer.gateway_files import GatewayFiles
from enginehouse.registry.deployer.kinds import SECRET, Ref
from enginehouse.registry.tenants import add_tenant, remove_tenant

TENANTS, WEBHOOKS = (Ref(SECRET, "enginehouse", name) for name in ("tenants", "webhook-secrets"))
_COMPONENT = "apiVersion: dapr.io/v1alpha1\nkind: Component\n"


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    return make_quick(monkeypatch)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    add_tenant(tmp_path / "tenants", "acme")
    async with running(tmp_path, FakeCluster(), FakeGateway()) as found:
        yield found


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Deployer]:
    """Return how often a deployer has begun anew since."""
    begun: list[Deployer] = []
    reset = Deployer.reset

    def counted(self: Deployer) -> None:
        begun.append(self)
        reset(self)

    monkeypatch.setattr(Deployer, "reset", counted)
    return begun


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "gateway/more.yaml",
            b"apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: x}\n",
            "must hold a Component",
        ),
        ("gateway/more.yaml", f"{_COMPONENT}metadata: {{labels: {{}}}}\nspec: {{}}\n".encode(), "metadata.name"),
        (
            "slots/a/dapr/more.yaml",
            f"{_COMPONENT}metadata: {{name: more}}\n".encode(),
            "spec must hold keys and values",
        ),
        ("slots/a/dapr/more.yaml", b"kind: \xff\xfe\n", "is not UTF-8"),
        ("slots/a/example.json", b"\xff\xfe", "is not UTF-8"),
        ("engine/subscription.yaml", b"kind: \xff\xfe\n", "cannot be read"),
        (
            "gateway/more.yaml",
            f"{_COMPONENT}metadata: {{name: x, annotations: {{d: 2026-01-01}}}}\nspec: {{}}\n".encode(),
            "metadata.annotations.d is a date",
        ),
        (
            "gateway/more.yaml",
            f"{_COMPONENT}metadata: {{name: x, labels: {{d: 2026-99-01}}}}\n".encode(),
            "month must be",
        ),
        ("gateway/more.yaml", f"{_COMPONENT}metadata: {{name: x}}\nspec: {{1: 2}}\n".encode(), "spec has the key 1"),
    ],
)
async def test_a_wrong_file_of_one_engine_is_told_and_stops_nothing_else(
    starts: list[Deployer], world: World, file: str, content: bytes, said: str
) -> None:
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    (world.home / "engines" / ENGINE / file).write_bytes(content)
    await until(lambda: said in (world.what_runs().refused(ENGINE) or ""), "the mistake to be said")
    add_tenant(world.home / "tenants", "umbra")
    await until(lambda: any("umbra" in str(ref) for ref in world.cluster.objects), "another tenant to be served")
    assert starts == [world.deployer]
    (world.home / "engines" / ENGINE / file).unlink()
    if file.endswith("more.yaml") or file.endswith("example.json"):
        await until(lambda: world.what_runs().refused(ENGINE) is None, "the engine to be well again")


async def test_a_mistake_of_ours_is_told_with_its_type_and_tried_again(
    starts: list[Deployer], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("by mistake")

    monkeypatch.setattr(tenant, "_AGAIN_SECONDS", (0.05, 0.1))
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logged:
        patch.setattr(tenant, "wanted_of_tenant", fails)
        add_tenant(world.home / "tenants", "umbra")
        told = "ZeroDivisionError: by mistake"
        await until(lambda: world.what_runs().refused("umbra") == told, "the mistake to be told")
        await until(lambda: world.deployer.tenants["umbra"]._failures > 2, "it to be tried again")
    traces = [entry["exc_info"] for entry in logged if entry.get("tenant") == "umbra"]
    assert [type(trace) for trace in traces] == [ZeroDivisionError]
    await until(lambda: world.what_runs().refused("umbra") is None, "it to be tried again")
    assert len(starts) == 1


async def test_what_stops_the_deployer_or_a_part_of_it_is_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any) -> None:
        raise ZeroDivisionError("by mistake")

    def problems() -> dict[str, str]:
        found: dict[str, str] = json.loads((world.home / "run" / "state.json").read_text())["problems"]
        return found

    assert problems() == {}
    world.deployer.note_trouble("state", ValueError("one"))
    assert problems() == {"state": "ValueError: one"}
    with monkeypatch.context() as patch, structlog.testing.capture_logs():
        patch.setattr(deployer, "changes_of", fails)
        async with running(world.home / "other", FakeCluster(), FakeGateway()) as other:
            await until(lambda: "deployer" in other.deployer.problems, "the deployer's failure to be shown")
            state = json.loads((world.home / "other" / "run" / "state.json").read_text())
            assert "deployer" in state["problems"]


async def test_a_home_that_was_lost_takes_no_tenant_from_the_gateway(tmp_path: Path) -> None:
    for name in ("acme", "umbra"):
        add_tenant(tmp_path / "tenants", name)
    (tmp_path / "webhook-secrets").mkdir()
    (tmp_path / "webhook-secrets" / "acme").write_text("whsec_x\n")
    cluster = FakeCluster()
    async with running(tmp_path, cluster, FakeGateway()):
        await until(lambda: len(_data(cluster, TENANTS)) == 3, "all tenants to be given")
        await until(lambda: len(_data(cluster, WEBHOOKS)) == 1, "the webhook's secret to be given")
    async with running(tmp_path / "other", cluster, FakeGateway()) as world:
        add_tenant(world.home / "tenants", "tyrell")
        await until(lambda: "tyrell.yaml" in _data(cluster, TENANTS), "a new tenant to be given")
    assert sorted(_data(cluster, TENANTS)) == ["acme.yaml", "operators.yaml", "tyrell.yaml", "umbra.yaml"]
    assert _data(cluster, WEBHOOKS).keys() == {"acme"}


def _data(cluster: FakeCluster, ref: Ref) -> dict[str, str]:
    found: dict[str, str] = cluster.objects.get(ref, {}).get("data", {})
    return found


async def test_a_tenant_that_is_removed_goes_from_the_gateway_whatever_is_killed_meanwhile(tmp_path: Path) -> None:
    for name in ("acme", "umbra"):
        add_tenant(tmp_path / "tenants", name)
    (tmp_path / "webhook-secrets").mkdir()
    (tmp_path / "webhook-secrets" / "acme").write_text("whsec_x\n")
    cluster = FakeCluster()
    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs():
        patch.setattr("enginehouse.registry.deployer.removals.Removals._delete_tenant", lambda *_: 1 / 0)
        async with running(tmp_path, cluster, FakeGateway()) as world:
            await until(lambda: "acme.yaml" in _data(cluster, TENANTS), "the tenant to be given")
            remove_tenant(world.home / "tenants", "acme", ())
            await until(lambda: "acme.yaml" not in _data(cluster, TENANTS), "it to be taken from the gateway")
            await until(lambda: "acme" not in _data(cluster, WEBHOOKS), "its webhook's secret as well")
            await until(lambda: "ZeroDivisionError" in world.deployer.removals.waits_for.get("acme", ""), "the mistake")
    async with running(tmp_path, cluster, FakeGateway()) as world:
        await until(lambda: not (world.home / "tenants" / "acme").exists(), "the removal to go on")
        assert sorted(_data(cluster, TENANTS)) == ["operators.yaml", "umbra.yaml"]
        assert not _data(cluster, WEBHOOKS)
        add_tenant(world.home / "tenants", "acme")
        await until(lambda: "acme.yaml" in _data(cluster, TENANTS), "a tenant of the same name to be given")


async def test_files_that_vanish_or_lead_nowhere_stop_nothing(starts: list[Deployer], world: World) -> None:
    (world.home / "webhook-secrets" / "gone").symlink_to("/nowhere")
    (world.home / "webhook-secrets" / "folder").mkdir()
    (world.home / "webhook-secrets" / "acme").write_text("whsec_x\n")
    await until(lambda: _data(world.cluster, WEBHOOKS).keys() == {"acme"}, "the secret to be given")
    assert len(starts) == 1
    assert world.deployer.problems == {}


async def test_a_file_that_is_refused_holds_up_no_other_and_is_shown(world: World) -> None:
    world.cluster.refuses = lambda change: "huge" in change.get("data", {})
    (world.home / "webhook-secrets" / "huge").write_text("whsec_y\n")
    (world.home / "webhook-secrets" / "acme").write_text("whsec_x\n")
    await until(lambda: _data(world.cluster, WEBHOOKS).keys() == {"acme"}, "the others to be given")
    await until(lambda: "huge of the Secret webhook-secrets" in str(world.deployer.problems), "it to be shown")
    file = world.home / "run" / "state.json"
    await until(lambda: "tenants' files" in json.loads(file.read_text())["problems"], "it to be in the state file")


async def test_a_secret_of_the_gateway_that_was_deleted_comes_back_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: len(_data(world.cluster, TENANTS)) == 2, "all tenants to be given")
    await world.cluster.delete(TENANTS)
    add_tenant(world.home / "tenants", "umbra")
    await until(lambda: len(_data(world.cluster, TENANTS)) == 3, "all tenants to be given again")
    assert isinstance(world.deployer.gateway_files, GatewayFiles)
