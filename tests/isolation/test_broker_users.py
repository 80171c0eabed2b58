"""The user of the broker that an engine's sidecar has: what Dapr needs is allowed, and Redis refuses all else.

The attempts are made with an engine's own credentials, as code that has taken its sidecar's memory would.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from _pytest.mark import ParameterSet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.support.break_ins import REDIS, Need, Noted, attempt
from tests.support.dapr import PORTS, DaprdHandle, RedisHandle, start_daprd, start_redis
from tests.support.serving import serving
from tests.support.waiting import until

from enginehouse.broker import redis_users
from enginehouse.broker.redis import RedisAddress
from enginehouse.broker.redis_users import (
    KEEPING,
    NAMING,
    PUBLISHING,
    READING,
    Grant,
    RedisUser,
    as_user,
    set_user,
    user_of_engine,
    user_of_gateway,
)
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import app_id, job_topic, results_component
from enginehouse.contracts.tenant import Tenant
from enginehouse.local import checkout, redis_server
from enginehouse.local.errors import LocalError
from enginehouse.registry.bundle import render_engine, render_tenant, write_bundle
from enginehouse.sidecar.dapr import DaprSidecar

ACME, GLOBEX = "acme--one", "globex--one"
PASSWORD = "password-of-a-test"
SLOW_SECONDS = 1.5
"""Longer than the broker waits for an acknowledgement here, so that it delivers again."""


def client(address: RedisAddress) -> "redis_client.Redis":
    """Return a connection with the credentials of an address."""
    return redis_client.Redis(
        address.host,
        address.port,
        username=address.user or None,
        password=address.password,
        decode_responses=True,
        encoding_errors="replace",
        protocol=2,
        socket_timeout=10,
    )


def servers() -> dict[str, Path]:
    """Return the servers of this machine by name and version: what each can express differs."""
    found: dict[str, Path] = {}
    paths = [redis_server.find_server()]
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(LocalError):
        patch.setenv("PATH", "")
        paths.append(redis_server.find_server())
    for path in paths:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        name, version = re.match(r"(\w+) server v=(\d+\.\d+)", said).groups()  # type: ignore[union-attr]
        found.setdefault(f"{name.lower()}-{version}", path)
    return found


# --- What is refused


@dataclass
class Broker:
    """A Redis with the data of two engines, and the credentials of one of them."""

    address: RedisAddress
    engine: RedisAddress
    apart: bool
    """Whether it can allow some commands on some keys, and others on others."""


@pytest.fixture(scope="module", params=sorted(servers()))
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    server = servers()[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis_server, "find_server", partial(Path, server))
        started = start_redis(folder)
    user = user_of_engine(ACME)
    set_user(started.address, user, [PASSWORD])
    with client(started.address) as admin:
        seed(admin)
        version = int(admin.info("server")["redis_version"].split(".")[0])
    yield Broker(started.address, as_user(started.address, user, PASSWORD), apart=version >= 7)
    started.stop()


def seed(admin: "redis_client.Redis") -> None:
    """Put something of each kind there, for attempts to find."""
    admin.hset(f"{GLOBEX}||job", mapping={"data": "secret", "version": "1"})
    admin.hset(f"{ACME}||job", mapping={"data": "own", "version": "1"})
    admin.set(f"{GLOBEX}||text", "secret")
    for topic in (
        job_topic(GLOBEX),
        job_topic(ACME),
        "completions",
        "dead-letters",
        "audit",
        "requests.globex",
        "finished.globex",
    ):
        with contextlib.suppress(redis_client.ResponseError):
            admin.xgroup_create(topic, "gateway", "0", mkstream=True)
        admin.xadd(topic, {"data": "secret"})


OTHERS_SCRIPT = "return redis.call('HGETALL', KEYS[1])"
HIDDEN_SCRIPT = f"return redis.call('HGETALL', '{GLOBEX}||job')"

ATTEMPTS: dict[str, list[str]] = {
    "read another engine's result": ["HGETALL", f"{GLOBEX}||job"],
    "read a field of another engine's result": ["HGET", f"{GLOBEX}||job", "data"],
    "read another engine's text": ["GET", f"{GLOBEX}||text"],
    "write another engine's result": ["HSET", f"{GLOBEX}||job", "data", "forged"],
    "let another engine's result expire": ["EXPIRE", f"{GLOBEX}||job", "1000"],
    "read another engine's result in a script": ["EVAL", OTHERS_SCRIPT, "1", f"{GLOBEX}||job"],
    "read it in a script that does not declare its key": ["EVAL", HIDDEN_SCRIPT, "0"],
    "read it in a script that declares an own key": ["EVAL", HIDDEN_SCRIPT, "1", f"{ACME}||job"],
    "read another engine's jobs": ["XREADGROUP", "GROUP", "gateway", "x", "STREAMS", job_topic(GLOBEX), ">"],
    "look through another engine's jobs": ["XRANGE", job_topic(GLOBEX), "-", "+"],
    "acknowledge another engine's job": ["XACK", job_topic(GLOBEX), "gateway", "1-1"],
    "take over another engine's job": ["XCLAIM", job_topic(GLOBEX), "gateway", "x", "0", "1-1"],
    "see what another engine works on": ["XPENDING", job_topic(GLOBEX), "gateway"],
    "give another engine a job": ["XADD", job_topic(GLOBEX), "*", "data", "forged"],
    "publish a tenant's request": ["XADD", "requests.globex", "*", "data", "forged"],
    "publish the end of a tenant's job": ["XADD", "finished.globex", "*", "data", "forged"],
    "read a tenant's requests": ["XREADGROUP", "GROUP", "gateway", "x", "STREAMS", "requests.globex", ">"],
    "look through all completions": ["XRANGE", "completions", "-", "+"],
    "trim the completions": ["XTRIM", "completions", "MAXLEN", "1000"],
    "look through the audit log": ["XRANGE", "audit", "-", "+"],
    "read the audit log's entries": ["XREADGROUP", "GROUP", "gateway", "x", "STREAMS", "audit", ">"],
    "forge an entry of the audit log": ["XADD", "audit", "*", "data", "forged"],
    "list all keys": ["KEYS", "*"],
    "page through all keys": ["SCAN", "0"],
    "learn a key at random": ["RANDOMKEY"],
    "count all keys": ["DBSIZE"],
    "ask for the type of another's key": ["TYPE", f"{GLOBEX}||job"],
    "copy another engine's result": ["COPY", f"{GLOBEX}||job", f"{ACME}||stolen"],
    "rename another engine's result": ["RENAME", f"{GLOBEX}||text", f"{ACME}||stolen"],
    "read another's result as a dump": ["DUMP", f"{GLOBEX}||job"],
    "sort by another's keys": ["SORT", f"{ACME}||list", "BY", "nosort", "GET", f"{GLOBEX}||text"],
    "watch what everybody sends": ["MONITOR"],
    "hear of every change of a key": ["PSUBSCRIBE", "__keyspace@0__:*"],
    "subscribe": ["SUBSCRIBE", "enginehouse"],
    "publish on a channel": ["PUBLISH", "enginehouse", "x"],
    "have changed keys told": ["CLIENT", "TRACKING", "OFF"],
    "list the connections": ["CLIENT", "LIST"],
    "end connections": ["CLIENT", "KILL", "TYPE", "pubsub"],
    "read the settings": ["CONFIG", "GET", "*"],
    "change a setting": ["CONFIG", "SET", "maxmemory-policy", "noeviction"],
    "read the users": ["ACL", "LIST"],
    "make a user": ["ACL", "SETUSER", "intruder", "on", "nopass", "~*", "+@all"],
    "read the refused attempts": ["ACL", "LOG"],
    "read the slow commands": ["SLOWLOG", "GET"],
    "make itself a copy of all data": ["REPLICAOF", "NO", "ONE"],
    "exchange databases": ["SWAPDB", "0", "0"],
    "keep a script for all": ["SCRIPT", "LOAD", "return 1"],
    "move to another database": ["SELECT", "1"],
    "delete everything": ["FLUSHALL"],
}
"""With an engine's credentials each of these is refused; with the administrator's, each succeeds."""

OF_THE_HOUSE: dict[str, list[str]] = {
    "read the completions of all": ["XREADGROUP", "GROUP", "gateway", "x", "STREAMS", "completions", ">"],
    "acknowledge others' completions": ["XACK", "completions", "gateway", "1-1"],
    "take over others' dead letters": ["XCLAIM", "dead-letters", "gateway", "x", "0", "1-1"],
    "delete one of its own streams": ["DEL", job_topic(ACME)],
    "delete the completions of all": ["DEL", "completions"],
    "delete them in a script": ["EVAL", "return redis.call('DEL', KEYS[1])", "1", "completions"],
}
"""Attempts on topics, of all engines and its own. Redis before 7 cannot allow some commands on a key and others on another."""


def _refused(broker: Broker, words: list[str]) -> str:
    """Try it with the engine's credentials, and return how Redis refuses it; empty if it does not."""
    with client(broker.engine) as engine:
        try:
            engine.execute_command(*words)
        except redis_client.ResponseError as refused:
            # A script of Redis before 7 is refused in words of its own.
            if re.search(
                "(?i)no permissions|can't access at least one of the keys|can't run this command", str(refused)
            ):
                return str(refused)
    return ""


def _each(attempts: dict[str, list[str]], need: Need | Sequence[Need] = ()) -> list[ParameterSet]:
    return [
        pytest.param(words, id=name, marks=attempt(f"{REDIS}{name}", layer="its user of Redis", need=need))
        for name, words in attempts.items()
    ]


@pytest.mark.parametrize("words", _each(ATTEMPTS))
def test_redis_refuses_an_engine_all_that_is_not_its_own(broker: Broker, words: list[str], note: Noted) -> None:
    refused = _refused(broker, words)
    note(refused)
    assert refused


@pytest.mark.parametrize("words", _each(OF_THE_HOUSE, "redis 7"))
def test_redis_refuses_an_engine_what_it_does_not_do_with_its_topics(
    broker: Broker, words: list[str], note: Noted
) -> None:
    refused = _refused(broker, words)
    if not broker.apart:
        assert not refused, "docs/engines.md says that Redis before 7 cannot refuse this"
        pytest.skip("Redis before 7 cannot allow a command on one key and refuse it on another")
    note(refused)
    assert refused


def test_an_engine_can_do_its_own_work(broker: Broker) -> None:
    with client(broker.address) as admin:
        seed(admin)
    with client(broker.engine) as engine:
        assert engine.hgetall(f"{ACME}||job")["data"] == "own"
        assert engine.xadd("completions", {"data": "x"})
        assert engine.xpending(job_topic(ACME), "gateway")["pending"] == 0


@pytest.mark.can_fail
def test_the_same_attempts_succeed_with_the_administrators_password(broker: Broker) -> None:
    """The suite can fail: what it tries works where nothing stops it. The last attempt deletes everything."""
    for name, words in {**OF_THE_HOUSE, **ATTEMPTS}.items():
        with client(broker.address) as admin:
            seed(admin)
            try:
                admin.execute_command(*words)
            except redis_client.ResponseError as refused:
                pytest.fail(f"{name}: {refused}")
    set_user(broker.address, user_of_engine(ACME), [PASSWORD])


# --- What is needed


@dataclass
class App:
    """An app that keeps what is delivered to it, and is slow the first time it gets a slow event."""

    bodies: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = Starlette(
            routes=[
                Route("/healthz", lambda _: Response()),
                Route("/{rest:path}", self._keep, methods=["POST"]),
            ]
        )

    async def _keep(self, request: Request) -> Response:
        body = await request.body()
        is_first = body not in self.bodies
        self.bodies.append(body)
        if b"slow" in body and is_first:
            await asyncio.sleep(SLOW_SECONDS)
        return Response(json.dumps({"status": "SUCCESS"}), media_type="application/json")

    def got(self, marker: str) -> int:
        """Return how often an event with this marker came."""
        return sum(marker.encode() in body for body in self.bodies)


@dataclass
class Side:
    """An app, its sidecar, and how it publishes, reads and keeps."""

    daprd: DaprdHandle
    app: App
    publishes: tuple[str, str]
    """A component and a topic."""


@dataclass
class World:
    """The gateway's sidecar and that of an engine, each with its own user, over one Redis."""

    redis: RedisHandle
    gateway: Side
    engine: Side
    resources: list[Path]
    """What the engine's sidecar loads."""

    def denied(self) -> set[str]:
        """Return the commands that Redis has refused since this was last asked."""
        with client(self.redis.address) as admin:
            entries = admin.acl_log()
            admin.acl_log_reset()
        return {entry["object"].partition("|")[0] for entry in entries}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with contextlib.ExitStack() as stack:
        broker = start_redis(folder)
        stack.callback(broker.stop)
        files = render_engine(EngineSpec(tenant="acme", name="one"), ".")
        jobs = files["slots/a/dapr/jobs.yaml"]
        jobs = re.sub(r"(name: processingTimeout\n\s+value:) \S+", r"\1 1s", jobs)
        files["slots/a/dapr/jobs.yaml"] = re.sub(r"(name: redeliverInterval\n\s+value:) \S+", r"\1 '200'", jobs)
        write_bundle(folder / "engine", files)
        write_bundle(folder / "tenant", render_tenant(Tenant(name="acme")))

        def side(user: RedisUser, app: str, resources: list[Path], publishes: tuple[str, str]) -> Side:
            port, scripted = PORTS.take(), App()
            stack.enter_context(serving(scripted.app, port))
            set_user(broker.address, user, [PASSWORD])
            env = as_user(broker.address, user, PASSWORD).environment()
            daprd = start_daprd(app, resources, folder / f"{app}.log", env=env, app_port=port)
            stack.callback(daprd.stop)
            return Side(daprd, scripted, publishes)

        core = [*checkout.gateway_resources(), folder / "engine/gateway", folder / "tenant/gateway"]
        own = [folder / "engine/engine", folder / "engine/slots/a/dapr", *checkout.runner_resources()]
        yield World(
            broker,
            side(user_of_gateway(), "gateway", core, ("jobs", job_topic(ACME))),
            side(user_of_engine(ACME), app_id(ACME, "a"), own, (f"jobs-{ACME}", "completions")),
            own,
        )


async def _keep_state(side: Side) -> None:
    """Do with a state store all that our services do."""
    store, key = results_component(ACME), f"key-{time.monotonic_ns()}"
    sidecar = DaprSidecar(side.daprd.http_port, side.daprd.api_token)
    await sidecar.start()
    try:
        await sidecar.create(store, key, b'"1"', 60)
        found = await sidecar.read(store, key)
        assert found
        await sidecar.replace(store, key, b'"2"', found.etag, 60)
        assert list(await sidecar.read_many(store, [key, "none"])) == [key]
        await sidecar.put(store, f"{key}-plain", b'"3"')
        await sidecar.delete(store, f"{key}-plain")
    finally:
        await sidecar.close()


async def _publish(side: Side, marker: str) -> None:
    sidecar = DaprSidecar(side.daprd.http_port, side.daprd.api_token)
    await sidecar.start()
    try:
        event = {"specversion": "1.0", "id": marker, "type": "t", "source": "/t", "data": marker}
        await sidecar.publish(*side.publishes, json.dumps(event).encode())
        assert (
            await sidecar.publish_many(*side.publishes, [json.dumps({**event, "id": "2"}).encode()] * 2) == [True] * 2
        )
    finally:
        await sidecar.close()


async def test_dapr_does_all_its_work_without_a_refusal(world: World) -> None:
    await _publish(world.gateway, "quick job")
    await _publish(world.gateway, "slow job")
    until(lambda: world.engine.app.got("quick job"), "the engine has the job")
    until(lambda: world.engine.app.got("slow job") > 1, "the slow job is delivered again")
    await _publish(world.engine, "completion")
    until(lambda: world.gateway.app.got("completion"), "the gateway has the completion")
    for side in (world.gateway, world.engine):
        await _keep_state(side)
    with client(world.redis.address) as admin:
        admin.xadd("requests.acme", {"data": '{"request": 1}'})
    until(lambda: world.gateway.app.bodies, "the gateway has the request")
    assert world.denied() == set()


async def _nothing(world: World) -> None:
    """Dapr sends it by itself, again and again."""


async def _hand_over(world: World) -> None:
    await _publish(world.gateway, f"quick {time.monotonic_ns()}")


async def _hand_over_slowly(world: World) -> None:
    await _publish(world.gateway, f"slow {time.monotonic_ns()}")


async def _complete(world: World) -> None:
    await _publish(world.engine, "completion")


async def _lose_the_group(world: World) -> None:
    with client(world.redis.address) as admin:
        admin.delete(job_topic(ACME))
    await _hand_over(world)


async def _keep(world: World) -> None:
    await _keep_state(world.engine)


NEEDED: dict[str, Callable[[World], Any]] = {
    "xadd": _complete,
    "xpending": _nothing,
    "xack": _hand_over,
    "xclaim": _hand_over_slowly,
    "xgroup|create": _lose_the_group,
    "xreadgroup": _hand_over,  # It waits without end for the first, and asks for the next.
    **dict.fromkeys(KEEPING, _keep),
}
"""What makes Dapr send each command."""


def _without(user: RedisUser, command: str) -> RedisUser:
    grants = [Grant([kept for kept in grant.commands if kept != command], grant.keys) for grant in user.grants]
    return RedisUser(user.name, grants)


@pytest.mark.parametrize("command", [*PUBLISHING, *READING, *KEEPING])
async def test_dapr_needs_each_command(world: World, command: str) -> None:
    user = user_of_engine(ACME)
    set_user(world.redis.address, _without(user, command), [PASSWORD])
    try:
        with contextlib.suppress(EnginehouseError):
            await NEEDED[command](world)
        until(lambda: command.partition("|")[0] in world.denied(), f"Redis refuses {command}")
    finally:
        set_user(world.redis.address, user, [PASSWORD])


def test_dapr_needs_what_it_sends_as_it_starts(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `wait` is sent only where Redis has replicas.
    monkeypatch.setattr(redis_users, "ALWAYS", ())
    monkeypatch.setattr(redis_users, "NAMING", ())
    user = RedisUser("starting", user_of_engine(ACME).grants)
    set_user(world.redis.address, user, [PASSWORD])
    env = as_user(world.redis.address, user, PASSWORD).environment()
    world.denied()
    daprd = start_daprd(app_id(ACME, "a"), world.resources, tmp_path / "daprd.log", env=env, wait=False)
    needed, denied = {"ping", "info"} | _naming(world), set[str]()

    def are_denied() -> bool:
        denied.update(world.denied())
        return denied >= needed

    until(are_denied, f"Redis refuses {needed}")
    daprd.stop()


def _naming(world: World) -> set[str]:
    with client(world.redis.address) as admin:
        is_known = NAMING[0] in admin.acl_cat("connection")
    return {NAMING[0].partition("|")[0]} if is_known else set()


def test_components_of_former_versions_and_environments_without_the_variable_go_on_working(
    world: World, tmp_path: Path
) -> None:
    files = render_engine(EngineSpec(tenant="acme", name="one"), ".")
    former = re.sub(r"  - name: redisUsername\n.*\n", "", files["slots/a/dapr/results.yaml"])
    assert "redisUsername" not in former
    for name, text in (("former", former), ("present", files["slots/a/dapr/results.yaml"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.yaml").write_text(text)
        daprd = start_daprd(
            app_id(ACME, "a"), [tmp_path / name], tmp_path / f"{name}.log", env=world.redis.address.environment()
        )
        asyncio.run(_keep_state(Side(daprd, App(), ("", ""))))
        daprd.stop()
