"""The Dapr objects of a deployment over Redis, as plain data. Which fields matter, and why, is said where they are set."""

from collections.abc import Mapping, Sequence
from typing import Any

from enginehouse.contracts.names import NOBODY

REDIS_ADDRESS: list[dict[str, str]] = [
    {"name": "redisHost", "envRef": "ENGINEHOUSE_REDIS_HOST"},
    {"name": "redisPassword", "envRef": "ENGINEHOUSE_REDIS_PASSWORD"},
]
"""From the sidecar's environment: a bundle holds no address and no secret."""

REDELIVER_INTERVAL_MS = "15000"
"""Bare milliseconds: with a unit, Dapr ignores the value without a word."""

STREAM_TTL = "6h"
"""The publisher's component trims, unread entries too. Completions live seconds, dead letters minutes."""


def topic_scopes(topics_of_app: Mapping[str, Sequence[str]]) -> str:
    """`app=topic,topic;app=`: an app with no topics may use none; one that is not named may use all, so name all."""
    return ";".join(f"{app}={','.join(topics)}" for app, topics in topics_of_app.items())


def component(name: str, kind: str, settings: Mapping[str, str], scopes: Sequence[str], **spec: Any) -> dict[str, Any]:
    """A Component of type `kind` with its metadata and the apps that may load it."""
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": name},
        "spec": {
            "type": kind,
            "version": "v1",
            **spec,
            "metadata": [*REDIS_ADDRESS, *({"name": key, "value": value} for key, value in settings.items())],
        },
        "scopes": list(scopes),
    }


def tolerant(settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Spec fields of what an engine or tenant adds to the gateway's sidecar: broken, it must not stop that sidecar."""
    return {"ignoreErrors": True, "initTimeout": "3s", **(settings or {})}


def results_store(name: str, key_prefix: str, scopes: Sequence[str], **spec: Any) -> dict[str, Any]:
    """A state store with a literal key prefix: no other prefix can be reached through it."""
    return component(name, "state.redis", {"keyPrefix": key_prefix}, scopes, **spec)


def subscription(
    name: str,
    pubsub: str,
    topic: str,
    route: str,
    scopes: Sequence[str],
    dead_letter_topic: str | None = None,
    raw_payload: bool = False,
) -> dict[str, Any]:
    """A declarative Subscription. No scopes at all would mean everybody, so nobody is written as a name."""
    spec: dict[str, Any] = {"pubsubname": pubsub, "topic": topic}
    if raw_payload:
        spec["metadata"] = {"rawPayload": "true"}
    spec["routes"] = {"default": route}
    if dead_letter_topic:
        spec["deadLetterTopic"] = dead_letter_topic
    return {
        "apiVersion": "dapr.io/v2alpha1",
        "kind": "Subscription",
        "metadata": {"name": name},
        "spec": spec,
        "scopes": list(scopes) or [NOBODY],
    }
