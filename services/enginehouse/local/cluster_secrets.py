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
class Outside:
    """A broker and a ledger that are operated elsewhere."""

    broker_host: str
    """`host:port`"""
    broker_user: str
    broker_password: str = field(repr=False)
    ledger_url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CoreSecrets:
    """The Secrets as Kubernetes objects, and the first operator's API key, of which they hold a hash only."""

    objects: list[dict[str, Any]] = field(repr=False)
    operator_key: str = field(repr=False)


def core_secrets(operator: str, outside: Outside | None) -> CoreSecrets:
    """Return new Secrets for namespace `enginehouse`.

    Without `outside` they are for the Redis and the PostgreSQL of k8s/trial/, and hold passwords for those as well.
    `operator` is the tenant that the operator's key belongs to. Raise InvalidName.
    """
    key = new_key(check_name("tenant", operator))
    gateway_password = _new()
    broker = outside or _trial_place()
    made = {
        "gateway": {"ledger-url": broker.ledger_url, "proof-key": _new()},
        "gateway-dapr-api": {"token": _new()},
        "gateway-app": {"token": _new()},
        "gateway-broker": {"host": broker.broker_host, "username": GATEWAY_USER, "password": gateway_password},
        "registry": {
            "operator": operator,
            "operator-key-sha256": hash_key(key),
            "broker-host": broker.broker_host,
            "broker-username": broker.broker_user,
            "broker-password": broker.broker_password,
        },
    }
    if outside is None:
        made |= _trial_secrets(broker, gateway_password)
    return CoreSecrets([_secret(name, content) for name, content in made.items()], key)


def _trial_place() -> Outside:
    # Without characters that an address would have to escape.
    return Outside(_TRIAL_BROKER, REGISTRY_USER, _new(), _TRIAL_LEDGER.format(password=secrets.token_hex(32)))


def _trial_secrets(broker: Outside, gateway_password: str) -> dict[str, dict[str, str]]:
    """Return what the trial's own servers read: the users that Redis begins with, and PostgreSQL's password."""
    administrator = f"user {REGISTRY_USER} reset on #{hash_key(broker.broker_password)} ~* &* +@all"
    # Redis 7 refuses the whole file for a rule that only 7.2 knows.
    gateway = f"user {' '.join(user_of_gateway().rules([gateway_password], named=False))}"
    ledger_password = broker.ledger_url.partition("://")[2].partition(":")[2].partition("@")[0]
    # Nobody can be this user, but Redis itself reads its log of writes with its rights: without them it would start empty.
    nobody = "user default reset off ~* &* +@all"
    return {
        "redis": {
            "redis.conf": "protected-mode no\naclfile /data/users.acl\n",
            "users.acl": f"{nobody}\n{administrator}\n{gateway}\n",
        },
        "postgres": {"password": ledger_password},
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
