"""The bundles of engines and tenants hold exactly the objects of the design, with the names that the code uses."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from enginehouse.contracts.engine import Batch, EngineSpec, Scale
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.bundle import (
    InvalidBundle,
    read_spec,
    read_workloads,
    remove_bundle,
    render_engine,
    render_tenant,
    write_bundle,
)

_SPEC = EngineSpec(tenant="acme", name="sentiment", concurrency=8, execution_timeout_seconds=60)


def _objects(files: dict[str, str]) -> dict[str, Any]:
    return {path: yaml.safe_load(text) for path, text in files.items()}


def _settings(component: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in component["spec"]["metadata"] if "value" in item}


def _engine(spec: EngineSpec = _SPEC) -> dict[str, Any]:
    return _objects(render_engine(spec, "/engines/sentiment"))


def test_the_jobs_component_lets_each_slot_do_its_part_and_no_more() -> None:
    jobs = _engine()["slots/a/dapr/jobs.yaml"]
    settings = _settings(jobs)
    assert jobs["metadata"]["name"] == "jobs-acme--sentiment"
    assert jobs["scopes"] == ["acme--sentiment--a"]
    assert settings["consumerID"] == "acme--sentiment"
    assert settings["allowedTopics"].split(",") == [
        "engine.acme--sentiment",
        "engine.acme--sentiment.trial",
        "completions",
        "dead-letters",
    ]
    assert settings["publishingScopes"] == (
        "acme--sentiment--a=completions,dead-letters;acme--sentiment--b=completions,dead-letters"
    )
    assert settings["subscriptionScopes"] == (
        "acme--sentiment--a=engine.acme--sentiment,engine.acme--sentiment.trial;"
        "acme--sentiment--b=engine.acme--sentiment,engine.acme--sentiment.trial"
    )


def test_the_jobs_component_paces_by_slots_and_outlasts_three_executions() -> None:
    settings = _settings(_engine(_SPEC.model_copy(update={"scale": Scale(min=2, max=2)}))["slots/a/dapr/jobs.yaml"])
    assert settings["concurrency"] == "16"
    batching = _engine(_SPEC.model_copy(update={"batch": Batch(max_size=4)}))["slots/a/dapr/jobs.yaml"]
    assert _settings(batching)["concurrency"] == "32"
    assert settings["queueDepth"] == "1"
    assert settings["processingTimeout"] == "210s"
    assert settings["redeliverInterval"].isdigit()


@pytest.mark.parametrize(("concurrency", "deliveries", "seconds"), [(8, 32, 390), (16, 64, 390), (1, 32, 2070)])
def test_the_runner_of_a_shared_engine_gets_the_whole_window_since_tenants_take_turns_there(
    concurrency: int, deliveries: int, seconds: int
) -> None:
    shared = _SPEC.model_copy(update={"tenant": "shared", "concurrency": concurrency})
    settings = _settings(_engine(shared)["slots/a/dapr/jobs.yaml"])
    assert settings["concurrency"] == str(deliveries)
    # A job that waits for its turn is not delivered once more meanwhile.
    assert settings["processingTimeout"] == f"{seconds}s"


def test_both_sides_name_the_same_keys_and_the_gateway_survives_a_broken_store() -> None:
    objects = _engine()
    engine, gateway = objects["slots/a/dapr/results.yaml"], objects["gateway/results.yaml"]
    assert engine["metadata"] == gateway["metadata"] == {"name": "results-acme--sentiment"}
    assert _settings(engine) == _settings(gateway) == {"keyPrefix": "acme--sentiment"}
    assert gateway["scopes"] == ["gateway"]
    assert gateway["spec"]["ignoreErrors"] is True
    assert gateway["spec"]["initTimeout"] == "3s"
    assert engine["scopes"] == ["acme--sentiment--a"]


def test_the_active_slot_is_subscribed_and_nobody_is_on_trial() -> None:
    objects = _engine()
    live, trial = objects["engine/subscription.yaml"], objects["engine/subscription-trial.yaml"]
    assert live["apiVersion"] == trial["apiVersion"] == "dapr.io/v2alpha1"
    assert live["spec"] == {
        "pubsubname": "jobs-acme--sentiment",
        "topic": "engine.acme--sentiment",
        "routes": {"default": "/jobs"},
        "deadLetterTopic": "dead-letters",
    }
    assert live["scopes"] == ["acme--sentiment--a"]
    assert trial["spec"]["topic"] == "engine.acme--sentiment.trial"
    assert trial["scopes"] == ["none"]


def test_no_component_holds_an_address_or_a_secret() -> None:
    files = {**render_engine(_SPEC, "/x"), **render_tenant(Tenant(name="acme"))}
    components = [content for content in _objects(files).values() if content.get("kind") == "Component"]
    assert len(components) == 5
    for component in components:
        from_environment = {item["name"]: item["envRef"] for item in component["spec"]["metadata"] if "envRef" in item}
        assert from_environment == {
            "redisHost": "ENGINEHOUSE_REDIS_HOST",
            "redisUsername": "ENGINEHOUSE_REDIS_USERNAME",
            "redisPassword": "ENGINEHOUSE_REDIS_PASSWORD",
        }


def test_a_tenant_gets_its_two_topics_and_the_gateway_reads_it_raw() -> None:
    objects = _objects(render_tenant(Tenant(name="acme")))
    requests, subscription = objects["gateway/requests.yaml"], objects["gateway/subscription.yaml"]
    assert requests["metadata"]["name"] == subscription["spec"]["pubsubname"] == "requests-acme"
    assert requests["scopes"] == subscription["scopes"] == ["gateway"]
    assert _settings(requests)["concurrency"] == "2"
    assert requests["spec"]["ignoreErrors"] is True
    assert subscription["spec"]["metadata"] == {"rawPayload": "true"}
    assert subscription["spec"]["topic"] == "requests.acme"
    assert subscription["spec"]["routes"] == {"default": "/requests/acme"}
    systems = _settings(objects["systems/pubsub.yaml"])
    assert systems["publishingScopes"] == "tenant-acme=requests.acme"
    assert systems["subscriptionScopes"] == "tenant-acme=finished.acme"
    assert systems["allowedTopics"] == "requests.acme,finished.acme"


def test_a_bundle_is_read_back_as_it_was_written_and_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "engines" / _SPEC.id
    write_bundle(folder, {**render_engine(_SPEC, "."), "engine/extra.yaml": "{}"})
    write_bundle(folder, render_engine(_SPEC, "."))
    assert read_spec(folder / "slots/a/engine.yaml") == _SPEC
    assert read_workloads(folder / "workloads.yaml").slots["a"].version == "v1"
    assert not (folder / "engine" / "extra.yaml").exists()
    assert [path.name for path in folder.parent.iterdir()] == [_SPEC.id]


def test_a_removed_bundle_leaves_nothing(tmp_path: Path) -> None:
    write_bundle(tmp_path / "acme--one", {"a": "b"})
    assert remove_bundle(tmp_path / "acme--one")
    assert not remove_bundle(tmp_path / "acme--one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is not YAML"), ("tenant: acme", "name: is missing"), ("tenant: acme\nname: UP", "not a valid name")],
)
def test_a_wrong_engine_file_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(text)
    with pytest.raises(InvalidBundle, match=said):
        read_spec(path)
