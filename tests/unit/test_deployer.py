"""The registry's deployer over an API server in memory: order, pruning, promotion, quarantine, removal and drift."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.deployer import ENGINE, PLACE, FakeGateway, World, make_quick, running, until
from tests.support.fake_cluster import FakeCluster

from enginehouse.contracts.errors import Unavailable
from enginehouse.registry import deploy
from enginehouse.registry.deployer.kinds import (
    APPLIED,
    DEPLOYMENT,
    NAMESPACE,
    NETWORK_POLICY,
    SCALED_JOB,
    SECRET,
    Ref,
    in_order,
)
from enginehouse.registry.secrets import set_secret
from enginehouse.registry.tenants import add_tenant, remove_tenant


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return the users that the broker has."""
    return make_quick(monkeypatch)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    add_tenant(tmp_path / "tenants", "acme")
    async with running(tmp_path, FakeCluster(), FakeGateway()) as found:
        yield found


async def test_a_first_version_comes_in_order_and_runs(world: World, broker: dict[str, list[str]]) -> None:
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    ours = [ref for ref in world.cluster.applied if PLACE in (ref.namespace, ref.name) and ref.kind != SECRET]
    assert ours[0] == Ref(NAMESPACE, "", PLACE)
    of_engine = [ref for ref in ours if ref.name.startswith((ENGINE, f"jobs-{ENGINE}", f"results-{ENGINE}"))]
    assert of_engine == sorted(of_engine, key=in_order)
    assert [ref.name for ref in of_engine if ref.kind == DEPLOYMENT] == [f"{ENGINE}--a", f"{ENGINE}--a-runner"]
    secrets = {ref.name for ref in world.cluster.objects if ref.kind == SECRET and ref.namespace == PLACE}
    assert secrets == {ENGINE, f"{ENGINE}-dapr-api", f"{ENGINE}-app", f"{ENGINE}-secrets"}
    assert f"engine-{ENGINE}" in broker
    core = {ref.name for ref in world.cluster.objects if ref.namespace == "enginehouse"}
    assert core == {"tenants", "webhook-secrets", f"results-{ENGINE}", *_requests("acme"), *_requests("operators")}


def _requests(tenant: str) -> set[str]:
    return {f"requests-{tenant}"}


async def test_nothing_is_touched_that_is_unchanged(tmp_path: Path) -> None:
    add_tenant(tmp_path / "tenants", "acme")
    cluster, gateway = FakeCluster(), FakeGateway()
    async with running(tmp_path, cluster, gateway) as world:
        world.deploy("v1")
        await until(lambda: world.state() == "running", "the engine to run")
    cluster.applied.clear()
    async with running(tmp_path, cluster, gateway) as world:
        await until(lambda: world.state() == "running", "the engine to be looked at")
    assert {ref.kind for ref in cluster.applied} == {SECRET}
    assert cluster.deleted == []


async def test_a_new_version_is_promoted_when_its_runner_finds_it_fit_and_the_old_one_ends_its_jobs_first(
    world: World,
) -> None:
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    world.gateway.misfit = "it does not answer its own example"
    world.cluster.drains = True
    world.deploy("v2")
    await until(lambda: world.state("trial") is not None, "the version to be on trial")
    await until(lambda: (world.what_runs().trial(ENGINE) or _NONE).problem == world.gateway.misfit, "the reason")
    assert world.active() == "a"
    world.gateway.misfit = None
    await until(lambda: world.active() == "b", "the version to be promoted")
    await until(lambda: world.ref(f"{ENGINE}--a-runner") not in world.cluster.objects, "the old runner to be stopped")
    assert f"{ENGINE}--a-pod" in world.cluster.pods(), "the engine stays while its runner ends the jobs"
    with pytest.raises(deploy.SlotBusy):
        world.deploy("v3")
    world.cluster.end_pods(f"{ENGINE}--a-runner")
    await until(lambda: f"{ENGINE}--a-pod" not in world.cluster.pods(), "the old engine to go")
    await until(lambda: not any(f"{ENGINE}--a" in ref.name for ref in world.cluster.objects), "all of the slot to go")
    await until(lambda: deploy.busy_slot(world.home / "engines" / ENGINE) is None, "the slot to be free")


_NONE = cast(Any, type("Nobody", (), {"problem": None, "doing": None}))


async def test_without_promotion_a_version_stays_on_trial_and_the_next_one_takes_its_place(world: World) -> None:
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    world.deploy("v2", promote=False)
    await until(lambda: world.state("trial") == "running", "the version to run on trial")
    assert world.active() == "a"
    before = [ref for ref in world.cluster.deleted if ref.kind == DEPLOYMENT]
    world.deploy("v3", promote=False)
    # The pods of another version would answer to the Service of the slot.
    await until(lambda: world.cluster.deleted.count(world.ref(f"{ENGINE}--b")) == 1, "the former version to go")
    await until(lambda: world.state("trial") == "running", "the next one to run")
    assert before == []
    deploy.promote_engine(world.home / "engines", ENGINE)
    await until(lambda: world.active() == "b", "the version to be promoted")


async def test_a_quarantined_engine_loses_pods_network_and_credentials_and_gets_them_back(
    world: World, broker: dict[str, list[str]]
) -> None:
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    (former,) = broker[f"engine-{ENGINE}"]
    world.gateway.quarantined = [{"engine": ENGINE, "reason": "it tries things", "by_operator": True}]
    await until(lambda: world.state() == "quarantined", "the engine to be held")
    await until(lambda: world.cluster.pods() == set(), "its pods to go")
    deny = Ref(NETWORK_POLICY, PLACE, f"{ENGINE}--a-quarantine")
    await until(lambda: deny in world.cluster.objects, "its network to be closed")
    policies = {ref.name for ref in world.cluster.objects if ref.kind == NETWORK_POLICY and ENGINE in ref.name}
    assert policies == {deny.name}
    assert f"engine-{ENGINE}" not in broker
    assert world.cluster.objects[world.ref(f"{ENGINE}--a")]["spec"]["replicas"] == 0
    world.gateway.quarantined = []
    await until(lambda: world.state() == "running", "the engine to run again")
    await until(lambda: deny not in world.cluster.objects, "its network to be open again")
    assert broker[f"engine-{ENGINE}"] != [former]


async def test_an_engine_with_a_pod_for_each_job_comes_is_held_and_goes(world: World) -> None:
    makes_pods = Ref(SCALED_JOB, PLACE, f"{ENGINE}--a")
    world.deploy("v1", mode="job")
    await until(lambda: world.state() == "running", "the engine to run")
    assert makes_pods in world.cluster.objects
    assert world.ref(f"{ENGINE}--a") not in world.cluster.objects
    job = world.cluster.make_job(makes_pods)
    world.gateway.quarantined = [{"engine": ENGINE, "reason": "it tries things", "by_operator": True}]
    await until(lambda: world.state() == "quarantined", "the engine to be held")
    await until(lambda: job not in world.cluster.objects and world.cluster.pods() == set(), "its pods to go")
    await until(lambda: makes_pods not in world.cluster.objects, "no pod to be made")
    world.gateway.quarantined = []
    await until(lambda: world.state() == "running", "the engine to run again")
    await until(lambda: makes_pods in world.cluster.objects, "pods to be made again")
    world.deploy("v2", mode="job")
    await until(lambda: world.active() == "b", "the version to be promoted")
    await until(lambda: makes_pods not in world.cluster.objects, "the version before to go")
    assert Ref(SCALED_JOB, PLACE, f"{ENGINE}--b") in world.cluster.objects


async def test_a_pod_for_a_job_whose_engine_does_not_start_is_told(world: World) -> None:
    world.deploy("v1", mode="job")
    await until(lambda: world.state() == "running", "the engine to run")
    waits = {"reason": "CrashLoopBackOff", "message": "back-off"}
    status = {"initContainerStatuses": [{"name": "engine", "state": {"waiting": waits}}]}
    world.cluster.make_job(Ref(SCALED_JOB, PLACE, f"{ENGINE}--a"), status)
    await until(lambda: world.state() == "failed", "it to be told")


async def test_a_held_engine_stays_so_over_a_restart_before_the_gateway_answers(
    tmp_path: Path, broker: dict[str, list[str]]
) -> None:
    add_tenant(tmp_path / "tenants", "acme")
    cluster, gateway = FakeCluster(), FakeGateway()
    async with running(tmp_path, cluster, gateway) as world:
        world.deploy("v1")
        await until(lambda: world.state() == "running", "the engine to run")
        gateway.quarantined = [{"engine": ENGINE, "reason": "it tries things", "by_operator": True}]
        await until(lambda: world.state() == "quarantined", "the engine to be held")

    async def silent(*_: Any, **__: Any) -> Any:
        raise Unavailable("the gateway is away")

    gateway.ask = silent  # type: ignore[method-assign]
    async with running(tmp_path, cluster, gateway) as world:
        await until(lambda: world.state() == "quarantined", "the engine to be held")
        assert cluster.pods() == set()
        assert f"engine-{ENGINE}" not in broker


async def test_another_value_of_a_secret_starts_the_engine_anew_and_a_missing_one_is_said(world: World) -> None:
    world.deploy("v1", secrets=["TOKEN"])
    await until(lambda: world.state() == "failed", "the engine to wait for its secret")
    problem = str((world.what_runs().active(ENGINE) or _NONE).problem)
    assert f"enginehouse engines secret set {ENGINE} TOKEN" in problem
    set_secret(world.home, ENGINE, "TOKEN", "one")
    await until(lambda: world.state() == "running", "the engine to run")
    deployments = [f"{ENGINE}--a", f"{ENGINE}--a-runner"]
    before = [_annotations(world, name) for name in deployments]
    set_secret(world.home, ENGINE, "TOKEN", "two")
    await until(lambda: _annotations(world, deployments[0]) != before[0], "the engine to start anew")
    assert _annotations(world, deployments[1]) == before[1], "its runner does not read it"


def _annotations(world: World, name: str) -> dict[str, str]:
    template = world.cluster.objects[world.ref(name)]["spec"]["template"]
    found: dict[str, str] = template["metadata"]["annotations"]
    return found


async def test_an_api_server_that_was_away_is_caught_up_with(world: World) -> None:
    world.cluster.is_away = True
    world.deploy("v1")
    await until(lambda: "away" in ((world.what_runs().active(ENGINE) or _NONE).doing or ""), "this to be said")
    world.cluster.is_away = False
    await until(lambda: world.state() == "running", "the engine to run")


async def test_what_is_deleted_in_the_cluster_comes_back_and_what_differs_is_shown(world: World) -> None:
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    assert await world.deployer.differences(ENGINE) == []
    policy = Ref(NETWORK_POLICY, PLACE, f"{ENGINE}--a")
    world.cluster.objects[policy]["spec"]["ingress"] = [{}]
    (found,) = await world.deployer.differences(ENGINE)
    assert (found.object, found.change) == (f"NetworkPolicy {PLACE}/{ENGINE}--a", "changed")
    assert "-  - {}" in (found.diff or "")
    await world.cluster.delete(policy)
    await until(lambda: policy in world.cluster.objects, "the policy to come back")


async def test_the_broken_bundle_of_one_engine_does_not_stop_another(world: World) -> None:
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    broken = world.home / "engines" / "acme--two"
    (broken / "engine").mkdir(parents=True)
    (broken / "workloads.yaml").write_text("slots: [")
    await until(lambda: world.what_runs().refused("acme--two") is not None, "the mistake to be said")
    world.deploy("v2")
    await until(lambda: world.active() == "b", "the next version of the other engine")


async def test_an_engine_and_its_tenant_are_removed_without_a_trace(world: World, broker: dict[str, list[str]]) -> None:
    world.deploy("v1")
    await until(lambda: world.state() == "running", "the engine to run")
    remove_tenant(world.home / "tenants", "acme", ())
    await until(lambda: (world.home / "engines" / ENGINE / "gateway/retired.yaml").exists(), "the engine to retire")
    await until(lambda: world.cluster.pods() == set(), "its pods to go")
    marker = f"retired-{ENGINE}"
    await until(lambda: any(ref.name == marker for ref in world.cluster.objects), "the gateway to be told")
    world.gateway.state = "retired"
    await until(lambda: not (world.home / "engines" / ENGINE).exists(), "the engine to be gone")
    await until(lambda: not (world.home / "tenants" / "acme").exists(), "the tenant to be gone")
    assert not [ref for ref in world.cluster.objects if "acme" in str(ref)]
    assert f"engine-{ENGINE}" not in broker


async def test_what_has_no_bundle_here_stays_as_it_is(tmp_path: Path) -> None:
    add_tenant(tmp_path / "tenants", "acme")
    cluster = FakeCluster()
    async with running(tmp_path, cluster, FakeGateway()) as world:
        world.deploy("v1")
        await until(lambda: world.state() == "running", "the engine to run")
    other = tmp_path / "other"
    async with running(other, cluster, FakeGateway()):
        await asyncio.sleep(0.2)  # Nothing is to happen.
    assert cluster.deleted == []
    assert f"{ENGINE}--a-pod" in cluster.pods()


def test_every_kind_that_is_rendered_has_a_place() -> None:
    assert len({(kind.api, kind.name) for kind in APPLIED}) == len(APPLIED)


async def test_what_the_operator_does_not_allow_does_not_start_and_what_runs_goes_on(tmp_path: Path) -> None:
    add_tenant(tmp_path / "tenants", "acme")
    async with running(tmp_path, FakeCluster(), FakeGateway()) as world:
        world.deploy("v1")
        await until(lambda: world.state() == "running", "the engine to run")
        policy = tmp_path / "supply" / "policy.yaml"
        policy.write_text(f"images: [{{digests: ['sha256:{'b' * 64}']}}]\n")
        world.deploy("v2")
        await until(lambda: world.state("trial") == "failed", "the version to be refused")
        assert not [name for name in world.cluster.pods() if "--b" in name]
        assert world.state() == "running"
        policy.unlink()
        await until(lambda: world.active() == "b", "the version to come up and be promoted")
