"""Engines' sidecars and the gateway's may do with their bundles' components only what they should (real sidecars)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tests.support.dapr import DaprdHandle, RedisHandle, start_daprd, start_redis

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import app_id, results_component
from enginehouse.contracts.tenant import Tenant
from enginehouse.local import checkout
from enginehouse.local.gateway_parts import GatewayParts
from enginehouse.registry.bundle import render_engine, render_tenant, write_bundle

ACME, GLOBEX = "acme--one", "globex--one"


@dataclass
class World:
    """The gateway's sidecar and those of two tenants' engines, over one Redis."""

    redis: RedisHandle
    gateway: DaprdHandle
    acme: DaprdHandle
    globex: DaprdHandle


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    redis = start_redis(folder)
    env = redis.environment()
    parts = folder / "run" / "gateway"
    parts.mkdir(parents=True)
    for engine in (ACME, GLOBEX):
        tenant, _, name = engine.partition("--")
        write_bundle(folder / engine, render_engine(EngineSpec(tenant=tenant, name=name), "."))
        write_bundle(folder / tenant, render_tenant(Tenant(name=tenant)))
        GatewayParts(parts).put(engine, folder / engine)
        GatewayParts(parts).put(tenant, folder / tenant)
    gateway = start_daprd(
        "gateway",
        [*checkout.gateway_resources(), parts],
        folder / "gateway.log",
        env=env,
        config=checkout.configuration("gateway"),
    )
    engines = [
        start_daprd(
            app_id(engine, "a"),
            [folder / engine / "engine", folder / engine / "slots" / "a" / "dapr", *checkout.runner_resources()],
            folder / f"{engine}.log",
            env=env,
            config=checkout.configuration("runner"),
        )
        for engine in (ACME, GLOBEX)
    ]
    yield World(redis, gateway, *engines)
    for process in (gateway, *engines, redis):
        process.stop()


def _call(sidecar: DaprdHandle, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, str]:
    headers = {"dapr-api-token": token or sidecar.api_token, "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    base = sidecar.url.removesuffix("/v1.0")
    try:
        with urlopen(Request(f"{base}/{path}", data, headers, method=method), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _publish(sidecar: DaprdHandle, component: str, topic: str) -> int:
    return _call(sidecar, "POST", f"v1.0/publish/{component}/{topic}", {})[0]


@pytest.mark.parametrize(
    ("topic", "status"),
    [
        ("completions", 204),
        ("dead-letters", 204),
        (f"engine.{ACME}", 403),
        (f"engine.{ACME}.trial", 403),
        (f"engine.{GLOBEX}", 403),
        ("requests.acme", 403),
        ("finished.acme", 403),
    ],
)
def test_an_engine_publishes_what_became_of_jobs_and_nothing_else(world: World, topic: str, status: int) -> None:
    assert _publish(world.acme, f"jobs-{ACME}", topic) == status


@pytest.mark.parametrize(
    ("component", "topic", "status"),
    [
        ("jobs", f"engine.{ACME}", 204),
        ("jobs", f"engine.{GLOBEX}.trial", 204),
        ("completions", "completions", 403),
        ("dead-letters", "dead-letters", 403),
        ("requests-acme", "finished.acme", 204),
        ("requests-acme", "requests.acme", 403),
        ("requests-acme", "finished.globex", 403),
    ],
)
def test_the_gateway_hands_jobs_over_and_cannot_speak_for_engines_or_tenants(
    world: World, component: str, topic: str, status: int
) -> None:
    assert _publish(world.gateway, component, topic) == status


def test_an_engines_sidecar_has_loaded_nothing_of_others(world: World) -> None:
    loaded = json.loads(_call(world.acme, "GET", "v1.0/metadata")[1])
    assert {component["name"] for component in loaded["components"]} == {f"jobs-{ACME}", f"results-{ACME}"}
    for component in (results_component(GLOBEX), f"jobs-{GLOBEX}", "jobs", "completions"):
        assert _call(world.acme, "GET", f"v1.0/state/{component}/x")[0] == 400


def test_results_of_two_engines_never_meet_and_the_gateway_sees_each(world: World) -> None:
    for sidecar, engine, value in [(world.acme, ACME, "a"), (world.globex, GLOBEX, "g")]:
        written = [{"key": "job", "value": value}]
        assert _call(sidecar, "POST", f"v1.0/state/{results_component(engine)}", written)[0] == 204
    for engine, value in [(ACME, "a"), (GLOBEX, "g")]:
        assert _call(world.gateway, "GET", f"v1.0/state/{results_component(engine)}/job") == (200, f'"{value}"')
    status, _ = _call(world.acme, "GET", f"v1.0/state/{results_component(ACME)}/{GLOBEX}||job")
    assert status >= 400, "a key that names another prefix is refused"


@pytest.mark.parametrize("who", ["gateway", "acme"])
def test_queries_which_ignore_prefixes_are_refused(world: World, who: str) -> None:
    sidecar: DaprdHandle = getattr(world, who)
    status, _ = _call(sidecar, "POST", f"v1.0-alpha1/state/{results_component(ACME)}/query", {"filter": {}})
    assert status in (404, 501)


@pytest.mark.parametrize("who", ["gateway", "acme"])
def test_without_the_token_a_sidecar_does_nothing(world: World, who: str) -> None:
    sidecar: DaprdHandle = getattr(world, who)
    assert _call(sidecar, "GET", f"v1.0/state/{results_component(ACME)}/job", token="wrong")[0] == 401
