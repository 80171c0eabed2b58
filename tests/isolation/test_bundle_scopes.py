"""Engines' sidecars and the gateway's may do with their bundles' components only what they should (real sidecars)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tests.support.abuse import dapr_grpc
from tests.support.break_ins import Noted, attempt
from tests.support.dapr import DaprdHandle, RedisHandle, start_daprd, start_redis

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import app_id, job_topic, results_component
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


_TOPICS = "topic scopes of the components"
_TO_OTHERS = [
    ("publishes to its own jobs", f"engine.{ACME}"),
    ("publishes to its own trial", f"engine.{ACME}.trial"),
    ("publishes a job to another engine", f"engine.{GLOBEX}"),
    ("publishes as a tenant's own system", "requests.acme"),
    ("tells a tenant's own system that a job has ended", "finished.acme"),
]


@pytest.mark.parametrize(
    "topic",
    [
        pytest.param(topic, id=topic, marks=attempt(f"by its sidecar {what}", layer=_TOPICS))
        for what, topic in _TO_OTHERS
    ],
)
def test_an_engine_publishes_nothing_else(world: World, topic: str, note: Noted) -> None:
    note(str(status := _publish(world.acme, f"jobs-{ACME}", topic)))
    assert status == 403


@pytest.mark.parametrize("topic", ["completions", "dead-letters"])
def test_an_engine_publishes_what_became_of_jobs(world: World, topic: str) -> None:
    assert _publish(world.acme, f"jobs-{ACME}", topic) == 204


_NOT_FOR_THE_GATEWAY = attempt(
    "by the gateway's sidecar speaks for engines and tenants: completions, dead letters, requests", layer=_TOPICS
)


@pytest.mark.parametrize(
    ("component", "topic", "status"),
    [
        ("jobs", f"engine.{ACME}", 204),
        ("jobs", f"engine.{GLOBEX}.trial", 204),
        ("requests-acme", "finished.acme", 204),
        pytest.param("completions", "completions", 403, marks=_NOT_FOR_THE_GATEWAY),
        pytest.param("dead-letters", "dead-letters", 403, marks=_NOT_FOR_THE_GATEWAY),
        pytest.param("requests-acme", "requests.acme", 403, marks=_NOT_FOR_THE_GATEWAY),
        pytest.param("requests-acme", "finished.globex", 403, marks=_NOT_FOR_THE_GATEWAY),
    ],
)
def test_the_gateway_hands_jobs_over_and_cannot_speak_for_engines_or_tenants(
    world: World, component: str, topic: str, status: int
) -> None:
    assert _publish(world.gateway, component, topic) == status


@attempt("by its sidecar uses components of others over HTTP", layer="a folder of resources for each app")
def test_an_engines_sidecar_has_loaded_nothing_of_others(world: World) -> None:
    loaded = json.loads(_call(world.acme, "GET", "v1.0/metadata")[1])
    assert {component["name"] for component in loaded["components"]} == {f"jobs-{ACME}", f"results-{ACME}"}
    for component in (results_component(GLOBEX), f"jobs-{GLOBEX}", "jobs", "completions"):
        assert _call(world.acme, "GET", f"v1.0/state/{component}/x")[0] == 400


@attempt("by its sidecar names a key of another engine's results", layer="literal key prefixes")
def test_results_of_two_engines_never_meet_and_the_gateway_sees_each(world: World) -> None:
    for sidecar, engine, value in [(world.acme, ACME, "a"), (world.globex, GLOBEX, "g")]:
        written = [{"key": "job", "value": value}]
        assert _call(sidecar, "POST", f"v1.0/state/{results_component(engine)}", written)[0] == 204
    for engine, value in [(ACME, "a"), (GLOBEX, "g")]:
        assert _call(world.gateway, "GET", f"v1.0/state/{results_component(engine)}/job") == (200, f'"{value}"')
    status, _ = _call(world.acme, "GET", f"v1.0/state/{results_component(ACME)}/{GLOBEX}||job")
    assert status >= 400, "a key that names another prefix is refused"


@attempt("by a sidecar queries over all keys", layer="queries are denied")
@pytest.mark.parametrize("who", ["gateway", "acme"])
def test_queries_which_ignore_prefixes_are_refused(world: World, who: str) -> None:
    sidecar: DaprdHandle = getattr(world, who)
    status, _ = _call(sidecar, "POST", f"v1.0-alpha1/state/{results_component(ACME)}/query", {"filter": {}})
    assert status in (404, 501)


@attempt("calls a sidecar with a wrong token", layer="a token for each app")
@pytest.mark.parametrize("who", ["gateway", "acme"])
def test_without_the_token_a_sidecar_does_nothing(world: World, who: str) -> None:
    sidecar: DaprdHandle = getattr(world, who)
    assert _call(sidecar, "GET", f"v1.0/state/{results_component(ACME)}/job", token="wrong")[0] == 401


# --- By gRPC, which has the same layers on another way


def _grpc(sidecar: DaprdHandle, method: str, fields: dapr_grpc.Fields) -> tuple[str, bytes]:
    return dapr_grpc.call(sidecar.plan.ports.grpc, sidecar.api_token, method, fields)


@attempt("by its sidecar reads another engine's results over gRPC", layer="a folder of resources for each app")
def test_no_results_of_others_over_grpc(world: World, note: Noted) -> None:
    own = _grpc(world.acme, "GetState", {1: results_component(ACME), 2: "none"})
    refused = [_grpc(world.acme, "GetState", {1: results_component(GLOBEX), 2: "job"})]
    refused += [_grpc(world.acme, "GetBulkState", {1: results_component(GLOBEX), 2: "job"})]
    refused += [_grpc(world.acme, "GetState", {1: results_component(ACME), 2: f"{GLOBEX}||job"})]
    note(", ".join(code for code, _ in refused))
    assert own[0] == "OK"
    assert "OK" not in [code for code, _ in refused], refused


@attempt("by its sidecar forges another job's record over HTTP, gRPC, in a transaction", layer="literal key prefixes")
def test_no_record_of_others_is_forged(world: World, note: Noted) -> None:
    key, store = f"{GLOBEX}||job", results_component(ACME)
    items = [{"key": key, "value": "forged"}]
    transaction = {"operations": [{"operation": "upsert", "request": items[0]}]}
    answers = [
        _call(world.acme, "POST", f"v1.0/state/{store}", items)[0],
        _call(world.acme, "POST", f"v1.0/state/{store}/transaction", transaction)[0],
        _call(world.acme, "POST", f"v1.0/state/{results_component(GLOBEX)}", [{"key": "job", "value": "forged"}])[0],
        _call(world.acme, "DELETE", f"v1.0/state/{results_component(GLOBEX)}/job")[0],
    ]
    codes = [
        _grpc(world.acme, "SaveState", {1: store, 2: {1: key, 2: b"forged"}})[0],
        _grpc(world.acme, "SaveState", {1: results_component(GLOBEX), 2: {1: "job", 2: b"forged"}})[0],
        _grpc(world.acme, "DeleteState", {1: results_component(GLOBEX), 2: "job"})[0],
    ]
    note(", ".join(map(str, [*answers, *codes])))
    assert min(answers) >= 400
    assert "OK" not in codes


@attempt("by its sidecar publishes to others' topics over gRPC and in bulk", layer=_TOPICS)
def test_no_topic_of_others_over_grpc_and_in_bulk(world: World, note: Noted) -> None:
    component, topic = f"jobs-{ACME}", job_topic(GLOBEX)
    entries = [{"entryId": "1", "event": {}, "contentType": "application/json"}]
    bulk, text = _call(world.acme, "POST", f"v1.0/publish/bulk/{component}/{topic}", entries)
    code, _ = _grpc(world.acme, "PublishEvent", {1: component, 2: topic, 3: b"{}"})
    in_bulk, _ = _grpc(world.acme, "BulkPublishEvent", {1: component, 2: topic, 3: {1: "1", 2: b"{}", 3: "a/b"}})
    others, _ = _grpc(world.acme, "PublishEvent", {1: f"jobs-{GLOBEX}", 2: "completions", 3: b"{}"})
    note(f"{bulk}, {code}, {in_bulk}, {others}")
    assert bulk in (403, 404), text
    assert "OK" not in (code, in_bulk, others)
    assert _grpc(world.acme, "PublishEvent", {1: component, 2: "completions", 3: b"{}"})[0] == "OK"


_OTHERS_TOPICS = ["completions", "dead-letters", job_topic(GLOBEX), "requests.acme", "finished.acme"]


@pytest.mark.parametrize(
    "topic",
    [
        pytest.param(topic, id=topic, marks=attempt(f"by its sidecar subscribes to {what}", layer=_TOPICS))
        for what, topic in zip(
            [
                "the completions of all",
                "dead letters of all",
                "another engine's jobs",
                "a tenant's requests",
                "its ends",
            ],
            _OTHERS_TOPICS,
            strict=True,
        )
    ],
)
def test_an_engine_subscribes_to_nothing_of_others(world: World, topic: str, note: Noted) -> None:
    ports, token = world.acme.plan.ports, world.acme.api_token
    code, said = dapr_grpc.subscribe(ports.grpc, token, f"jobs-{ACME}", topic)
    note(f"{code}: {said.decode()[:60]}")
    assert code != "OK", said
    assert b"not allowed" in said, said


@attempt("calls a sidecar over gRPC without a token, and with a wrong one", layer="a token for each app")
@pytest.mark.parametrize("who", ["gateway", "acme"])
def test_grpc_needs_the_token(world: World, who: str, note: Noted) -> None:
    ports = getattr(world, who).plan.ports
    codes = [
        dapr_grpc.call(port, token, "GetState", {1: results_component(ACME), 2: "job"})[0]
        for port in (ports.grpc, ports.internal)
        for token in (None, "wrong")
    ]
    note(", ".join(codes))
    assert codes[:2] == ["UNAUTHENTICATED"] * 2
    assert "OK" not in codes


@attempt("by its sidecar queries over all keys by gRPC", layer="queries are denied")
def test_queries_over_grpc_are_refused(world: World, note: Noted) -> None:
    code, said = _grpc(world.acme, "QueryStateAlpha1", {1: results_component(ACME), 2: "{}"})
    note(f"{code}: {said.decode()}")
    # In these words it denies. A method that it does not know, or a store that cannot query, is told otherwise.
    assert (code, said) == ("UNIMPLEMENTED", b"Not Implemented")


_BLOCKS = {
    "secrets": ("GET", "v1.0/secrets/kubernetes/x"),
    "secrets in bulk": ("GET", "v1.0/secrets/any/bulk"),
    "configuration": ("GET", "v1.0/configuration/any?key=x"),
    "bindings": ("POST", "v1.0/bindings/any"),
    "locks": ("POST", "v1.0-alpha1/lock/any"),
    "actors": ("POST", "v1.0/actors/any/1/method/x"),
    "state of actors": ("GET", "v1.0/actors/any/1/state/x"),
    "scheduled jobs": ("POST", "v1.0-alpha1/jobs/x"),
    "workflows": ("POST", "v1.0/workflows/dapr/any/start"),
    "cryptography": ("PUT", "v1.0-alpha1/crypto/any/encrypt"),
    "conversations": ("POST", "v1.0-alpha2/conversation/any/converse"),
}


@attempt(
    "by its sidecar uses Dapr's other building blocks: secrets, bindings, actors, schedules", layer="no such component"
)
def test_there_is_nothing_else_in_a_sidecar(world: World, note: Noted) -> None:
    answers = {name: _call(world.acme, method, path, {})[0] for name, (method, path) in _BLOCKS.items()}
    note(", ".join(f"{name} {status}" for name, status in answers.items()))
    assert all(status >= 400 for status in answers.values()), answers
