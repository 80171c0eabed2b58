"""Every dead letter of every subscription lands where the gateway reads it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.bundle import ENGINE_FILE, read_spec, render_engine, render_tenant

ROOT = Path(__file__).resolve().parents[2]
CORE = [ROOT / "components/local", ROOT / "dapr/subscriptions", ROOT / "dapr/resiliency"]
ENGINE_FILES = [*ROOT.glob(f"services/engines/*/{ENGINE_FILE}"), ROOT / "engine_template" / ENGINE_FILE]


def _core() -> Iterator[dict[str, Any]]:
    for folder in CORE:
        for path in sorted(folder.glob("*.yaml")):
            yield from yaml.safe_load_all(path.read_text())


def _bundles() -> Iterator[dict[str, Any]]:
    specs = [read_spec(path) for path in ENGINE_FILES] + [EngineSpec(tenant="acme", name="one")]
    rendered = [render_engine(spec, ".") for spec in specs] + [render_tenant(Tenant(name="acme"))]
    for files in rendered:
        for text in files.values():
            if yaml.safe_load(text).get("kind"):
                yield yaml.safe_load(text)


def _setting(component: dict[str, Any], name: str) -> str:
    return next((item["value"] for item in component["spec"]["metadata"] if item["name"] == name), "")


OBJECTS = [*_core(), *_bundles()]
SUBSCRIPTIONS = [item for item in OBJECTS if item["kind"] == "Subscription"]
COMPONENTS = {(item["metadata"]["name"], *item["scopes"]): item for item in OBJECTS if item["kind"] == "Component"}
GIVES_UP = [item for item in SUBSCRIPTIONS if "deadLetterTopic" in item["spec"]]


def test_there_are_engines_whose_dead_letters_matter() -> None:
    assert len(GIVES_UP) >= 2 * len(ENGINE_FILES)


@pytest.mark.parametrize("subscription", GIVES_UP, ids=lambda item: item["metadata"]["name"])
def test_every_dead_letter_topic_has_a_subscriber(subscription: dict[str, Any]) -> None:
    readers = [item for item in SUBSCRIPTIONS if item["spec"]["topic"] == subscription["spec"]["deadLetterTopic"]]
    assert [item["scopes"] for item in readers] == [[names.GATEWAY_APP]]


@pytest.mark.parametrize("subscription", GIVES_UP, ids=lambda item: item["metadata"]["name"])
def test_whoever_dead_letters_may_publish_there(subscription: dict[str, Any]) -> None:
    topic, component = subscription["spec"]["deadLetterTopic"], subscription["spec"]["pubsubname"]
    (mine,) = [item for (name, *_), item in COMPONENTS.items() if name == component]
    assert topic in _setting(mine, "allowedTopics").split(",")
    scopes = dict(scope.split("=") for scope in _setting(mine, "publishingScopes").split(";"))
    for app in mine["scopes"]:
        assert topic in scopes[app].split(","), app


@pytest.mark.parametrize("subscription", SUBSCRIPTIONS, ids=lambda item: item["metadata"]["name"])
def test_every_subscription_says_who_it_is_for(subscription: dict[str, Any]) -> None:
    # An empty list would mean every app.
    assert subscription["scopes"]


def test_every_stream_has_a_reader_that_dapr_recovers_entries_for() -> None:
    # 0 would switch recovery off, and Dapr silently ignores an interval with a unit.
    for component in COMPONENTS.values():
        if component["spec"]["type"] != "pubsub.redis":
            continue
        assert _setting(component, "processingTimeout") not in ("0", "0s")
        assert _setting(component, "redeliverInterval").isdigit() or not _setting(component, "redeliverInterval")
