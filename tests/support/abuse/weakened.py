"""Weakens one layer at a time, so that the suite of break-ins can show that it sees it. No part of the product does this.

`pytest --weaken "topic scopes" tests/isolation` must fail. Layers of a stack's processes are weakened in these processes,
which take them from WEAKENED in their environment, by the sitecustomize of `weakened_processes`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WEAKENED = "WEAKENED_BY_TESTS"
_PROCESSES = Path(__file__).with_name("weakened_processes")
_ROOT = Path(__file__).resolve().parents[3]


def _users_of_redis(patch: pytest.MonkeyPatch) -> None:
    """Give every user of Redis all commands on all keys."""
    from enginehouse.broker.redis_users import RedisUser

    rules = RedisUser.rules
    patch.setattr(RedisUser, "rules", lambda *given, **named: [*rules(*given, **named), "~*", "&*", "+@all"])


def _topic_scopes(patch: pytest.MonkeyPatch) -> None:
    """Leave the topics out of the components of every bundle."""
    from enginehouse.registry import bundle

    component, topics = vars(bundle)["component"], {"allowedTopics", "publishingScopes", "subscriptionScopes"}

    def without(name: str, kind: str, metadata: dict[str, Any], *given: Any, **named: Any) -> Any:
        kept = {key: value for key, value in metadata.items() if key not in topics}
        return component(name, kind, kept, *given, **named)

    patch.setattr(bundle, "component", without)


def _tokens(patch: pytest.MonkeyPatch) -> None:
    """Start every sidecar without tokens."""
    from enginehouse.local import sidecar

    environment = sidecar.sidecar_environment

    def without(*given: Any) -> dict[str, str]:
        tokens = (sidecar.API_TOKEN_VARIABLE, sidecar.APP_TOKEN_VARIABLE)
        return {name: value for name, value in environment(*given).items() if name not in tokens}

    patch.setattr(sidecar, "sidecar_environment", without)


def _tokens_of_deliveries(patch: pytest.MonkeyPatch) -> None:
    """Let whoever reaches an app's port deliver to it."""
    from enginehouse.sidecar.delivery import DeliveryApp

    patch.setattr(DeliveryApp, "_has_token", lambda *_: True)


def _webhook_addresses(patch: pytest.MonkeyPatch) -> None:
    """Take every address for one of the outside."""
    from enginehouse.gateway.notify import webhooks

    patch.setattr(webhooks, "is_outside", lambda _: True)


def _owners(patch: pytest.MonkeyPatch) -> None:
    """Look a job up by its id alone."""
    from enginehouse.gateway.jobs.jobs import Jobs
    from enginehouse.gateway.ledger import read

    async def found(self: Jobs, caller: object, job_id: str) -> Any:
        return await self.ledger.read(read.job, job_id)

    patch.setattr(Jobs, "owned", found)


def _redirects(patch: pytest.MonkeyPatch) -> None:
    """Let every client follow redirects."""
    import aiohttp

    request: Any = aiohttp.ClientSession._request

    async def following(self: Any, *given: Any, **named: Any) -> Any:
        return await request(self, *given, **{**named, "allow_redirects": True})

    patch.setattr(aiohttp.ClientSession, "_request", following)


def _bounded_answers(patch: pytest.MonkeyPatch) -> None:
    """Read answers of any size, and take results of any."""
    from enginehouse.runner.clients import wire

    read = wire.read_body
    patch.setattr(wire, "read_body", lambda response, _: read(response, 1 << 40))
    patch.setattr(wire.Limits, "of", lambda *_: 1 << 40)


def _proofs(patch: pytest.MonkeyPatch) -> None:
    """Take every proof of an event or a call."""
    from enginehouse.contracts import events, proofs

    for module in (proofs, events):
        patch.setattr(module, "proves", lambda *_: True)


def _archives(patch: pytest.MonkeyPatch) -> None:
    """Take as many files out of an archive as there are."""
    from enginehouse.registry import unpack

    real = unpack.unpack
    patch.setattr(unpack, "unpack", lambda *given, **named: real(*given, **{**named, "max_files": 1 << 40}))


LAYERS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "users of redis": _users_of_redis,
    "topic scopes": _topic_scopes,
    "tokens": _tokens,
    "tokens of deliveries": _tokens_of_deliveries,
    "webhook addresses": _webhook_addresses,
    "owners": _owners,
    "redirects": _redirects,
    "bounded answers": _bounded_answers,
    "archives": _archives,
    "proofs": _proofs,
}
"""Layers that are weakened in the process of the tests."""


def _without(patch: pytest.MonkeyPatch, *beginnings: str) -> None:
    from enginehouse.local.containers import hardening

    hardened = hardening._hardened
    patch.setattr(
        hardening,
        "_hardened",
        lambda *given: [word for word in hardened(*given) if not word.startswith(beginnings)],
    )


def _internal_networks(patch: pytest.MonkeyPatch) -> None:
    """Make networks with an address of the host, and a way out of it."""
    from enginehouse.local.containers.docker import Docker

    call = Docker.__call__

    async def opened(self: Docker, *words: str, **named: Any) -> str:
        return await call(self, *(word for word in words if word != "--internal" and "inhibit" not in word), **named)

    patch.setattr(Docker, "__call__", opened)


OF_CONTAINERS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "seccomp": lambda patch: _without(patch, "--security-opt=seccomp"),
    "read-only root": lambda patch: _without(patch, "--read-only"),
    "bound of processes": lambda patch: _without(patch, "--pids-limit"),
    "bound of open files": lambda patch: _without(patch, "--ulimit=nofile"),
    "internal networks": _internal_networks,
}
"""Layers that are weakened in a stack's supervisor."""


def weaken(layers: list[str]) -> None:
    """Weaken layers for the rest of this process, and those of containers for the stacks that it starts."""
    for layer in layers:
        if layer in LAYERS:
            LAYERS[layer](pytest.MonkeyPatch())
    os.environ[WEAKENED] = ",".join(layer for layer in layers if layer in OF_CONTAINERS)
    os.environ["PYTHONPATH"] = f"{_PROCESSES}{os.pathsep}{_ROOT}"


def weaken_this_process() -> None:
    """Weaken the layers of containers that the environment names."""
    for layer in filter(None, os.environ.get(WEAKENED, "").split(",")):
        OF_CONTAINERS[layer](pytest.MonkeyPatch())
