"""Build the Dapr objects of a deployment over Redis as plain data. Comments give the reason for each setting."""

from collections.abc import Mapping, Sequence
from typing import Any

from enginehouse.contracts.names import GATEWAY_APP, NOBODY

REDIS_USERNAME = {"name": "redisUsername", "envRef": "ENGINEHOUSE_REDIS_USERNAME"}
"""Where the variable is not set, Dapr logs in as Redis' user `default`."""

REDIS_ADDRESS: list[dict[str, str]] = [
    {"name": "redisHost", "envRef": "ENGINEHOUSE_REDIS_HOST"},
    REDIS_USERNAME,
    {"name": "redisPassword", "envRef": "ENGINEHOUSE_REDIS_PASSWORD"},
]
"""Taken from the sidecar's environment: a bundle holds no address and no secret."""

REDELIVER_INTERVAL_MS = "15000"
"""Milliseconds without a unit: Dapr silently ignores a value with a unit."""

STREAM_TTL = "6h"
"""The publisher's component trims the stream, also unread entries. Completions live seconds, dead letters minutes."""


def topic_scopes(topics_of_app: Mapping[str, Sequence[str]]) -> str:
    """Return `app=topic,topic;app=`.

    Name every app: one without topics may use none, one that is missing may use all.
    """
    return ";".join(f"{app}={','.join(topics)}" for app, topics in topics_of_app.items())


def component(
    name: str,
    kind: str,
    settings: Mapping[str, str],
    scopes: Sequence[str],
    *,
    address: Sequence[dict[str, str]] = REDIS_ADDRESS,
    **spec: Any,
) -> dict[str, Any]:
    """Return a Component of type `kind` with its metadata and the apps that may load it."""
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": name},
        "spec": {
            "type": kind,
            "version": "v1",
            **spec,
            "metadata": [*address, *({"name": key, "value": value} for key, value in settings.items())],
        },
        "scopes": list(scopes),
    }


def tolerant(settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return spec fields for a component in the gateway's sidecar, so that a broken one does not stop the sidecar."""
    return {"ignoreErrors": True, "initTimeout": "3s", **(settings or {})}


def results_store(name: str, key_prefix: str, scopes: Sequence[str], **spec: Any) -> dict[str, Any]:
    """Return a state store with a literal key prefix. No other prefix can be reached through it."""
    return component(name, "state.redis", {"keyPrefix": key_prefix}, scopes, **spec)


def marker(name: str, scopes: Sequence[str]) -> dict[str, Any]:
    """Return a Component that does nothing but be there, for the apps that list the components of their sidecar."""
    # A store in memory would do, but now and then daprd 1.18 never comes back from closing one, and loads nothing any more.
    nothing = [{"name": "prefix", "value": "NO_VARIABLE_BEGINS_WITH_THIS_"}]
    spec = {"type": "secretstores.local.env", "version": "v1", **tolerant(), "metadata": nothing}
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": name},
        "spec": spec,
        "scopes": list(scopes),
    }


def secret_store(name: str, scopes: Sequence[str]) -> dict[str, Any]:
    """Return an engine's own secret store. For another one (a vault), edit its type and metadata in the bundle."""
    file = {"name": "secretsFile", "envRef": "ENGINEHOUSE_SECRETS_FILE"}
    return component(name, "secretstores.local.file", {}, scopes, address=[file])


def subscription(
    name: str,
    pubsub: str,
    topic: str,
    route: str,
    scopes: Sequence[str],
    dead_letter_topic: str | None = None,
    raw_payload: bool = False,
) -> dict[str, Any]:
    """Return a declarative Subscription.

    Empty `scopes` become a name that no app has, because no scopes mean every app.
    """
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


def runner_configuration(gateway_namespace: str) -> dict[str, Any]:
    """Return the Configuration of runners' sidecars: mTLS proves who calls, and only the gateway may, and only `/call/**`."""
    calls = {"name": "/call/**", "httpVerb": ["*"], "action": "allow"}
    gateway = {
        "appId": GATEWAY_APP,
        "defaultAction": "deny",
        "trustDomain": "public",
        "namespace": gateway_namespace,
        "operations": [calls],
    }
    # Denied because queries do not respect key prefixes.
    queries = [{"name": "state", "version": "v1alpha1", "protocol": protocol} for protocol in ("http", "grpc")]
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Configuration",
        "metadata": {"name": "runner"},
        "spec": {
            "accessControl": {"defaultAction": "deny", "trustDomain": "public", "policies": [gateway]},
            "api": {"denied": queries},
        },
    }


def resiliency() -> dict[str, Any]:
    """Return the Resiliency that every sidecar loads from its first day; dapr/resiliency/resiliency.yaml says why so."""
    retry = {"policy": "constant", "duration": "2s", "maxRetries": -1}
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Resiliency",
        "metadata": {"name": "enginehouse"},
        "spec": {"policies": {"retries": {"DefaultPubsubComponentInboundRetryPolicy": retry}}, "targets": {}},
    }
