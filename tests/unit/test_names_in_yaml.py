"""Names, topics and routes in the YAML of the core match the code that computes them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from enginehouse.contracts import names
from enginehouse.gateway.settings import GatewaySettings

_ROOT = Path(__file__).resolve().parents[2]


def _documents(folder: str) -> dict[str, Any]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((_ROOT / folder).glob("*.yaml"))}


def _settings(component: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in component["spec"]["metadata"] if "value" in item}


def test_the_gateways_components_have_the_names_of_the_code_and_are_its_alone() -> None:
    components = _documents("components/local")
    expected = {
        names.GATEWAY_JOBS_COMPONENT,
        names.COMPLETIONS_COMPONENT,
        names.DEAD_LETTERS_COMPONENT,
        names.AUDIT_COMPONENT,
    }
    assert {component["metadata"]["name"] for component in components.values()} == expected
    assert set(components) == expected, "one object, one file, one name"
    assert all(component["scopes"] == [names.GATEWAY_APP] for component in components.values())


def test_the_gateway_only_publishes_jobs_and_only_hears_what_comes_back() -> None:
    components = _documents("components/local")
    nothing = f"{names.GATEWAY_APP}="
    jobs = _settings(components[names.GATEWAY_JOBS_COMPONENT])
    assert jobs["subscriptionScopes"] == nothing
    assert "allowedTopics" not in jobs
    assert "publishingScopes" not in jobs
    audit = _settings(components[names.AUDIT_COMPONENT])
    assert audit["allowedTopics"] == names.AUDIT_TOPIC
    assert audit["publishingScopes"] == nothing + names.AUDIT_TOPIC
    assert audit["subscriptionScopes"] == nothing
    assert int(audit["maxLenApprox"]) > 0
    for component, topic in [
        (names.COMPLETIONS_COMPONENT, names.COMPLETIONS_TOPIC),
        (names.DEAD_LETTERS_COMPONENT, names.DEAD_LETTERS_TOPIC),
    ]:
        settings = _settings(components[component])
        assert settings["allowedTopics"] == topic
        assert settings["subscriptionScopes"] == nothing + topic
        assert settings["publishingScopes"] == nothing


@pytest.mark.parametrize(
    ("topic", "component", "route"),
    [
        (names.COMPLETIONS_TOPIC, names.COMPLETIONS_COMPONENT, "/completions"),
        (names.DEAD_LETTERS_TOPIC, names.DEAD_LETTERS_COMPONENT, "/dead-letters"),
    ],
)
def test_the_cores_subscriptions_lead_to_the_gateways_routes(topic: str, component: str, route: str) -> None:
    subscription = _documents("dapr/subscriptions")[topic]
    assert subscription["spec"]["topic"] == topic
    assert subscription["spec"]["pubsubname"] == component
    assert subscription["spec"]["routes"] == {"default": route}
    assert subscription["scopes"] == [names.GATEWAY_APP]


def test_the_inbound_retry_never_ends_and_no_breaker_or_timeout_stands_before_it() -> None:
    (resiliency,) = _documents("dapr/resiliency").values()
    assert "scopes" not in resiliency
    assert resiliency["spec"] == {
        "policies": {
            "retries": {
                "DefaultPubsubComponentInboundRetryPolicy": {"policy": "constant", "duration": "2s", "maxRetries": -1}
            }
        },
        "targets": {},
    }


def test_durations_that_dapr_reads_as_bare_milliseconds_have_no_unit() -> None:
    for name, component in _documents("components/local").items():
        assert _settings(component).get("redeliverInterval", "1").isdigit(), name


def test_every_app_refuses_calls_but_of_the_gateway_to_an_engines_extra_endpoints() -> None:
    configurations = _documents("dapr/configuration")
    control = {name: document["spec"]["accessControl"] for name, document in configurations.items()}
    assert {name: rule["defaultAction"] for name, rule in control.items()} == {"gateway": "deny", "runner": "deny"}
    assert "policies" not in control["gateway"]
    (policy,) = control["runner"]["policies"]
    assert (policy["appId"], policy["defaultAction"]) == (names.GATEWAY_APP, "deny")
    assert [operation["name"] for operation in policy["operations"]] == ["/call/**"]


def test_dapr_run_starts_the_core_with_the_files_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load((_ROOT / "dapr" / "dapr.yaml").read_text())
    (app,) = content["apps"]
    assert app["appID"] == names.GATEWAY_APP
    # The CLI resolves common paths from the run file's folder, and an app's paths from the app's own folder.
    named = [*content["common"]["resourcesPaths"], app["appDirPath"], f"{app['appDirPath']}/{app['configFilePath']}"]
    assert all((_ROOT / "dapr" / path).exists() for path in named)
    assert str(app["appPort"]) == app["env"]["ENGINEHOUSE_GATEWAY_DELIVERY_PORT"]
    for name, value in app["env"].items():
        monkeypatch.setenv(name, value)
    assert GatewaySettings().delivery_port == app["appPort"]
