"""An engine's and a tenant's objects for Kubernetes follow the bundle, with what was edited there by hand."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from enginehouse.contracts.base import variable
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.tenant import Tenant
from enginehouse.local import checkout
from enginehouse.registry.bundle import InvalidBundle, render_engine, render_retired, update_bundle, write_bundle
from enginehouse.registry.kubernetes.engine import NoImage, render_engine_parts
from enginehouse.registry.kubernetes.parts import Part, texts_of
from enginehouse.registry.kubernetes.settings import ClusterSettings, Placement
from enginehouse.registry.kubernetes.source import read_source
from enginehouse.registry.kubernetes.tenant import render_tenant_parts
from enginehouse.registry.objects import resiliency, runner_configuration
from enginehouse.registry.versions import promote_version, put_version
from enginehouse.runner.settings import RunnerSettings, load_settings

IMAGE = f"registry.example/acme/sentiment@sha256:{'a' * 64}"
CLUSTER = ClusterSettings(services_image="enginehouse:1", broker="redis.enginehouse.svc.cluster.local:6379")


def _spec(**content: Any) -> EngineSpec:
    return EngineSpec.model_validate({"tenant": "acme", "name": "sentiment", "image": IMAGE, **content})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return _written(tmp_path, _spec())


def _written(folder: Path, spec: EngineSpec) -> Path:
    bundle = folder / spec.id
    write_bundle(bundle, render_engine(spec, "source", "hash-of-v1", '{"text": "good"}\n'))
    return bundle


def _rendered(bundle: Path, cluster: ClusterSettings = CLUSTER) -> dict[tuple[str, str], dict[str, Any]]:
    engine, _ = render_engine_parts(read_source(bundle), cluster)
    return _by_name(engine)


def _by_name(part: Part) -> dict[tuple[str, str], dict[str, Any]]:
    found = {(item["kind"], item["metadata"]["name"]): item for item in part.objects()}
    assert len(found) == len(part.objects())
    return found


def _setting(component: dict[str, Any], name: str) -> Any:
    return next(item["value"] for item in component["spec"]["metadata"] if item["name"] == name)


def _container(deployment: dict[str, Any]) -> dict[str, Any]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def _annotations(deployment: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
    return found


class TestVersions:
    def test_only_the_versions_that_run_have_pods(self, bundle: Path) -> None:
        put_version(bundle, _spec(version="v2"), "source", "hash-of-v2", promote=True)
        on_trial = _rendered(bundle)
        assert {name for kind, name in on_trial if kind == "Deployment"} == {
            f"acme--sentiment--{slot}{part}" for slot in "ab" for part in ("", "-runner")
        }
        promote_version(bundle)
        promoted = _rendered(bundle)
        assert {name for kind, name in promoted if kind == "Deployment"} == {
            "acme--sentiment--b",
            "acme--sentiment--b-runner",
        }

    def test_promoting_changes_scope_and_component_of_one_object(self, bundle: Path) -> None:
        put_version(bundle, _spec(version="v2"), "source", "hash-of-v2", promote=True)
        before, trial = (_rendered(bundle)["Subscription", f"acme--sentiment{end}"] for end in ("", "-trial"))
        assert (before["scopes"], before["spec"]["pubsubname"]) == (["acme--sentiment--a"], "jobs-acme--sentiment--a")
        assert (trial["scopes"], trial["spec"]["pubsubname"]) == (["acme--sentiment--b"], "jobs-acme--sentiment--b")
        promote_version(bundle)
        after, nobody = (_rendered(bundle)["Subscription", f"acme--sentiment{end}"] for end in ("", "-trial"))
        assert (after["scopes"], after["spec"]["pubsubname"]) == (["acme--sentiment--b"], "jobs-acme--sentiment--b")
        assert nobody["scopes"] == ["none"]

    def test_a_version_on_trial_has_one_replica_that_stays(self, tmp_path: Path) -> None:
        bundle = _written(tmp_path, _spec(scale={"min": 0, "max": 5}))
        put_version(bundle, _spec(version="v2", scale={"min": 0, "max": 5}), "source", "hash-of-v2", promote=True)
        rendered = _rendered(bundle)
        assert {name for kind, name in rendered if kind == "ScaledObject"} == {
            "acme--sentiment--a",
            "acme--sentiment--a-runner",
        }
        for name in ("acme--sentiment--b", "acme--sentiment--b-runner"):
            assert rendered["Deployment", name]["spec"]["replicas"] == 1
        # KEDA alone says how many there are of the active version.
        assert "replicas" not in rendered["Deployment", "acme--sentiment--a"]["spec"]
        assert "replicas" not in rendered["Deployment", "acme--sentiment--a-runner"]["spec"]

    def test_an_engine_that_is_being_removed_has_nothing_but_the_gateways_part(self, bundle: Path) -> None:
        update_bundle(bundle, render_retired("acme--sentiment"))
        engine, gateway = render_engine_parts(read_source(bundle), CLUSTER)
        assert engine.objects() == []
        assert [item["metadata"]["name"] for item in gateway.objects()] == [
            "results-acme--sentiment",
            "retired-acme--sentiment",
        ]
        assert not any(path.startswith("engine/") for path in texts_of([engine, gateway]))


class TestEditsByHand:
    def test_another_broker_is_used_as_the_bundle_names_it(self, bundle: Path) -> None:
        file = bundle / "slots/a/dapr/jobs.yaml"
        edited = yaml.safe_load(file.read_text())
        edited["spec"] |= {"type": "pubsub.kafka", "metadata": [{"name": "brokers", "value": "kafka:9092"}]}
        file.write_text(yaml.safe_dump(edited))
        component = _rendered(bundle)["Component", "jobs-acme--sentiment--a"]
        assert component["spec"] == edited["spec"]
        assert component["scopes"] == ["acme--sentiment--a"]

    def test_a_setting_that_nobody_edited_follows_the_most_replicas(self, tmp_path: Path) -> None:
        bundle = _written(tmp_path, _spec(concurrency=3, scale={"min": 1, "max": 5}))
        assert _setting(_rendered(bundle)["Component", "jobs-acme--sentiment--a"], "concurrency") == "15"
        file = bundle / "slots/a/dapr/jobs.yaml"
        file.write_text(
            file.read_text().replace("name: concurrency\n    value: '3'", "name: concurrency\n    value: '7'")
        )
        assert _setting(_rendered(bundle)["Component", "jobs-acme--sentiment--a"], "concurrency") == "7"

    def test_a_component_that_both_slots_would_share_must_be_one(self, bundle: Path) -> None:
        put_version(bundle, _spec(version="v2"), "source", "hash-of-v2", promote=True)
        assert _rendered(bundle)["Component", "results-acme--sentiment"]["scopes"] == [
            "acme--sentiment--a",
            "acme--sentiment--b",
        ]
        file = bundle / "slots/b/dapr/results.yaml"
        file.write_text(file.read_text().replace("state.redis", "state.postgresql"))
        with pytest.raises(InvalidBundle, match="results-acme--sentiment differs"):
            _rendered(bundle)

    def test_an_edited_engine_file_starts_the_runner_anew(self, bundle: Path) -> None:
        before = _annotations(_rendered(bundle)["Deployment", "acme--sentiment--a-runner"])
        file = bundle / "slots/a/engine.yaml"
        file.write_text(f"# Edited.\n{file.read_text()}")
        rendered = _rendered(bundle)
        after = _annotations(rendered["Deployment", "acme--sentiment--a-runner"])
        assert before["enginehouse.dev/content"] != after["enginehouse.dev/content"]
        assert rendered["ConfigMap", "acme--sentiment--a"]["data"]["engine.yaml"].startswith("# Edited.\n")


class TestEngine:
    @pytest.mark.parametrize("image", [None, f"sha256:{'a' * 64}", "registry.example/acme/sentiment:v1"])
    def test_without_an_image_by_its_digest_it_is_refused(self, tmp_path: Path, image: str | None) -> None:
        spec = _spec(run={"command": ["python", "engine.py"]}, image=image)
        with pytest.raises(NoImage, match="acme--sentiment v1"):
            _rendered(_written(tmp_path, spec))

    def test_it_has_no_dapr_no_token_and_no_other_engines_addresses(self, bundle: Path) -> None:
        deployment = _rendered(bundle)["Deployment", "acme--sentiment--a"]
        assert list(_annotations(deployment)) == ["enginehouse.dev/version"]
        pod = deployment["spec"]["template"]["spec"]
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)

    def test_a_pod_for_each_job_has_a_door_before_the_same_engine(self, tmp_path: Path) -> None:
        content: dict[str, Any] = {"secrets": ["TOKEN"], "execution_timeout_seconds": 600}
        usual = _rendered(_written(tmp_path / "usual", _spec(**content)))["Deployment", "acme--sentiment--a"]
        rendered = _rendered(_written(tmp_path / "job", _spec(mode="job", scale={"max": 5}, **content)))
        assert ("Deployment", "acme--sentiment--a") not in rendered
        scaled = rendered["ScaledJob", "acme--sentiment--a"]["spec"]
        assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (0, 5)
        (trigger,) = scaled["triggers"]
        assert trigger["metadata"]["targetValue"] == "1"
        job = scaled["jobTargetRef"]
        pod, usual_pod = job["template"]["spec"], usual["spec"]["template"]["spec"]
        (engine,), (usual_engine,) = pod["initContainers"], usual_pod["containers"]
        assert engine.pop("restartPolicy") == "Always"
        assert usual_engine.pop("lifecycle")
        assert engine == {**usual_engine, "env": engine["env"]}
        own = {"initContainers", "containers", "restartPolicy", "shareProcessNamespace"}
        assert {name: pod[name] for name in pod.keys() - own} == {
            name: usual_pod[name] for name in usual_pod.keys() - own
        }
        assert job["template"]["metadata"] == usual["spec"]["template"]["metadata"]
        assert job["activeDeadlineSeconds"] > 1_800 + 600
        (door,) = pod["containers"]
        assert (door["image"], door["securityContext"]["runAsUser"]) == (CLUSTER.services_image, 65532)

    def test_a_runner_calls_the_door_of_a_pod_for_one_job_and_nothing_behind_it(self, tmp_path: Path) -> None:
        rendered = _rendered(_written(tmp_path, _spec(mode="job")))
        runner = _container(rendered["Deployment", "acme--sentiment--a-runner"])
        (service,) = [one["value"] for one in runner["env"] if one["name"].endswith("ENGINE_SERVICE")]
        assert service == "acme--sentiment--a:8800"
        ports = [
            rule["ports"][0]["port"]
            for name, way in (("acme--sentiment--a", "ingress"), ("acme--sentiment--a-runner", "egress"))
            for rule in rendered["NetworkPolicy", name]["spec"][way]
        ]
        assert ports == [8800, 8800]
        # The runner itself sleeps as that of any engine that may.
        assert ("ScaledObject", "acme--sentiment--a-runner") in rendered
        assert ("ScaledObject", "acme--sentiment--a") not in rendered

    def test_a_version_on_trial_with_a_pod_for_each_job_has_one_that_waits(self, tmp_path: Path) -> None:
        bundle = _written(tmp_path, _spec(mode="job", scale={"max": 5}))
        put_version(bundle, _spec(version="v2", mode="job", scale={"max": 5}), "source", "hash-of-v2", promote=True)
        on_trial = _rendered(bundle)["ScaledJob", "acme--sentiment--b"]["spec"]
        assert (on_trial["minReplicaCount"], on_trial["maxReplicaCount"]) == (1, 1)

    def test_a_job_in_hand_has_its_own_time_whatever_the_engine_does_at_the_end(self, tmp_path: Path) -> None:
        rendered = _rendered(_written(tmp_path, _spec(execution_timeout_seconds=599.5)))
        engine = rendered["Deployment", "acme--sentiment--a"]
        assert _container(engine)["lifecycle"]["preStop"]["sleep"]["seconds"] == 610
        assert engine["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 600
        runner = rendered["Deployment", "acme--sentiment--a-runner"]
        assert _annotations(runner)["dapr.io/block-shutdown-duration"] == "660s"
        assert runner["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 660

    def test_it_reads_the_secrets_that_it_names_and_no_other(self, tmp_path: Path) -> None:
        without = _rendered(_written(tmp_path / "without", _spec()))["Deployment", "acme--sentiment--a"]
        assert [volume["name"] for volume in without["spec"]["template"]["spec"]["volumes"]] == ["tmp"]
        rendered = _rendered(_written(tmp_path / "with", _spec(secrets=["TOKEN"])))
        pod = rendered["Deployment", "acme--sentiment--a"]["spec"]["template"]["spec"]
        secret = next(volume["secret"] for volume in pod["volumes"] if volume["name"] == "secrets")
        assert secret["secretName"] == "acme--sentiment-secrets"
        assert [item["key"] for item in secret["items"]] == ["TOKEN"]
        # The component that gives them on one machine names a file there.
        assert not [name for kind, name in rendered if kind == "Component" and "secrets" in name]

    def test_only_an_engine_that_asks_for_gpus_gets_any(self, tmp_path: Path) -> None:
        without = _rendered(_written(tmp_path / "without", _spec()))["Deployment", "acme--sentiment--a"]
        assert "nvidia.com/gpu" not in _container(without)["resources"]["limits"]
        spec = _spec(resources={"cpu": "2", "memory": "8Gi", "gpu": 1})
        resources = _container(_rendered(_written(tmp_path / "with", spec))["Deployment", "acme--sentiment--a"])[
            "resources"
        ]
        own = {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"}
        # Of disk it has what its log may take.
        assert resources["limits"] == {**own, "ephemeral-storage": "1024Mi"}
        assert resources["requests"] == {**own, "ephemeral-storage": "64Mi"}

    def test_it_runs_where_its_tenant_may(self, bundle: Path) -> None:
        toleration = {"key": "enginehouse.dev/tenant", "value": "acme", "effect": "NoSchedule"}
        placement = Placement.model_validate(
            {"runtime_class": "gvisor", "node_selector": {"pool": "acme"}, "tolerations": [toleration]}
        )
        rendered = _rendered(bundle, CLUSTER.model_copy(update={"placement": placement}))
        pod = rendered["Deployment", "acme--sentiment--a"]["spec"]["template"]["spec"]
        assert (pod["runtimeClassName"], pod["nodeSelector"]) == ("gvisor", {"pool": "acme"})
        assert pod["tolerations"] == [{**toleration, "operator": "Equal"}]
        # The runner is ours, and trusted.
        assert "runtimeClassName" not in rendered["Deployment", "acme--sentiment--a-runner"]["spec"]["template"]["spec"]

    @pytest.mark.parametrize(
        ("scale", "scaled"),
        [
            ({"min": 1}, []),
            ({"min": 3, "max": 3}, []),
            ({"min": 1, "max": 4}, ["acme--sentiment--a"]),
            ({"min": 0, "max": 1}, ["acme--sentiment--a", "acme--sentiment--a-runner"]),
        ],
    )
    def test_what_changes_by_itself_is_scaled(self, tmp_path: Path, scale: dict[str, int], scaled: list[str]) -> None:
        rendered = _rendered(_written(tmp_path, _spec(scale=scale)))
        assert [name for kind, name in rendered if kind == "ScaledObject"] == scaled
        wanted = None if scaled else scale["min"]
        assert rendered["Deployment", "acme--sentiment--a"]["spec"].get("replicas") == wanted

    def test_the_processor_alone_scales_nothing(self, tmp_path: Path) -> None:
        bundle = _written(tmp_path, _spec(scale={"min": 0, "max": 5}))
        rendered = _rendered(bundle, CLUSTER.model_copy(update={"cpu_percent": 80}))
        triggers = rendered["ScaledObject", "acme--sentiment--a"]["spec"]["triggers"]
        assert [trigger["type"] for trigger in triggers] == ["metrics-api", "cpu"]


def test_a_runner_starts_with_what_its_pod_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = _rendered(_written(tmp_path, _spec(tenant="a" * 24, name="b" * 24)))
    (runner,) = [item for (kind, name), item in rendered.items() if kind == "Deployment" and name.endswith("-runner")]
    known = {variable(RunnerSettings, name) for name in RunnerSettings.model_fields}
    for one in _container(runner)["env"]:
        assert one["name"] in known
        # A pod's name has 63 characters at most; a secret value is long.
        monkeypatch.setenv(one["name"], one.get("value") or "a" * 63)
    monkeypatch.setenv("DAPR_HTTP_PORT", "3500")  # Dapr gives it to every container of the pod.
    settings = load_settings()
    assert settings.jobs_component == f"jobs-{'a' * 24}--{'b' * 24}--a"
    assert settings.health_port == _container(runner)["ports"][0]["containerPort"]
    assert str(settings.delivery_port) == _annotations(runner)["dapr.io/app-port"]


class TestTenant:
    def test_its_broker_is_reached_by_label_or_outside_the_cluster_by_address(self) -> None:
        outside = CLUSTER.model_copy(update={"broker_cidrs": ["203.0.113.7/32"]})
        for cluster, wanted in (
            (CLUSTER, {"podSelector": {"matchLabels": {"enginehouse.dev/broker": "true"}}}),
            (outside, {"ipBlock": {"cidr": "203.0.113.7/32"}}),
        ):
            tenant, _ = render_tenant_parts(Tenant(name="acme"), cluster)
            egress = _by_name(tenant)["NetworkPolicy", "runner"]["spec"]["egress"]
            (to,) = next(rule["to"] for rule in egress if rule["ports"] == [{"protocol": "TCP", "port": 6379}])
            assert wanted.items() <= to.items()

    def test_its_runners_reach_an_object_store_that_serves_its_signed_urls_itself(self) -> None:
        for cidrs in ([], ["198.51.100.0/24", "203.0.113.0/28"]):
            tenant, _ = render_tenant_parts(Tenant(name="acme"), CLUSTER.model_copy(update={"objects_cidrs": cidrs}))
            egress = _by_name(tenant)["NetworkPolicy", "runner"]["spec"]["egress"]
            open_to = [rule["to"] for rule in egress if rule["ports"] == [{"protocol": "TCP", "port": 443}]]
            assert open_to == [[{"ipBlock": {"cidr": cidr}}] for cidr in cidrs]

    def test_its_quota_can_be_set_but_nothing_that_leads_out(self) -> None:
        placement = Placement(quota={"pods": "7", "services.loadbalancers": "3"}, image_pull_secrets=["registry"])
        tenant, _ = render_tenant_parts(Tenant(name="acme"), CLUSTER.model_copy(update={"placement": placement}))
        found = _by_name(tenant)
        hard = found["ResourceQuota", "tenant"]["spec"]["hard"]
        assert (hard["pods"], hard["services.loadbalancers"]) == ("7", "0")
        # Disk for two containers of each pod.
        assert hard["limits.ephemeral-storage"] == f"{7 * 2 * 1024}Mi"
        assert found["ServiceAccount", "engine"]["imagePullSecrets"] == [{"name": "registry"}]

    def test_the_gateway_reads_its_events(self) -> None:
        _, gateway = render_tenant_parts(Tenant(name="acme"), CLUSTER)
        assert gateway.namespace == "enginehouse"
        assert [(item["kind"], item["metadata"]["name"]) for item in gateway.objects()] == [
            ("Component", "requests-acme"),
            ("Subscription", "requests-acme"),
        ]

    def test_its_sidecars_are_told_what_those_of_one_machine_are(self) -> None:
        configuration = yaml.safe_load(checkout.configuration("runner").read_text())
        assert configuration == runner_configuration("default")
        (folder,) = checkout.runner_resources()
        assert yaml.safe_load((folder / "resiliency.yaml").read_text()) == resiliency()


@pytest.mark.parametrize(
    "wrong",
    [{"broker": "redis"}, {"gateway_url": "gateway"}, {"broker_cidrs": ["10.0.0.300/32"]}, {"objects_cidrs": ["all"]}],
)
def test_a_wrong_setting_of_the_cluster_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClusterSettings.model_validate({**CLUSTER.model_dump(), **wrong})
