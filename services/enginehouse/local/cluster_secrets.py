"""Make the Secrets that the core in a Kubernetes cluster needs before it starts (k8s/). No file keeps them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from enginehouse.broker.redis_users import user_of_gateway
from enginehouse.contracts.names import GATEWAY_USER, check_name
from enginehouse.contracts.tenant import hash_key, new_key

NAMESPACE = "enginehouse"
REGISTRY_USER = "registry"
"""The broker's administrator: makes a user for the gateway and for each engine."""
_TRIAL_BROKER = "redis.enginehouse.svc.cluster.local:6379"
_TRIAL_LEDGER = "postgresql://enginehouse:{password}@postgres.enginehouse.svc.cluster.local:5432/enginehouse"


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker, and its administrator."""

    host: str
    """`host:port`"""
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CoreSecrets:
    """The Secrets as Kubernetes objects, and the first operator's API key, of which they hold a hash only."""

    objects: list[dict[str, Any]] = field(repr=False)
    operator_key: str = field(repr=False)


def core_secrets(operator: str, broker: Broker | None = None, ledger_url: str | None = None) -> CoreSecrets:
    """Return new Secrets for namespace `enginehouse`.

    Without `broker` they are for the Redis of k8s/trial/, without `ledger_url` for the PostgreSQL there, and hold what
    that server itself reads as well. `operator` is the tenant that the operator's key belongs to. Raise InvalidName.
    """
    key = new_key(check_name("tenant", operator))
    gateway_password = _new()
    used, made = broker, {}
    if used is None:
        used = Broker(_TRIAL_BROKER, REGISTRY_USER, _new())
        made["redis"] = _redis(used, gateway_password)
    if ledger_url is None:
        # Without characters that a URL would have to escape.
        password = secrets.token_hex(32)
        ledger_url, made["postgres"] = _TRIAL_LEDGER.format(password=password), {"password": password}
    made |= {
        "gateway": {"ledger-url": ledger_url, "proof-key": _new()},
        "gateway-dapr-api": {"token": _new()},
        "gateway-app": {"token": _new()},
        "gateway-broker": {"host": used.host, "username": GATEWAY_USER, "password": gateway_password},
        "registry": {
            "operator": operator,
            "operator-key-sha256": hash_key(key),
            "broker-host": used.host,
            "broker-username": used.user,
            "broker-password": used.password,
        },
    }
    return CoreSecrets([_secret(name, content) for name, content in made.items()], key)


def _redis(broker: Broker, gateway_password: str) -> dict[str, str]:
    """Return what the trial's Redis reads: the users that it begins with."""
    administrator = f"user {REGISTRY_USER} reset on #{hash_key(broker.password)} ~* &* +@all"
    # Redis 7 refuses the whole file for a rule that only 7.2 knows.
    gateway = f"user {' '.join(user_of_gateway().rules([gateway_password], named=False))}"
    # Nobody can be this user, but Redis itself reads its log of writes with its rights: without them it would start empty.
    nobody = "user default reset off ~* &* +@all"
    return {
        "redis.conf": "protected-mode no\naclfile /data/users.acl\n",
        "users.acl": f"{nobody}\n{administrator}\n{gateway}\n",
    }


def _new() -> str:
    return secrets.token_urlsafe(32)


def _secret(name: str, content: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/part-of": "enginehouse"},
        },
        "stringData": dict(content),
    }
