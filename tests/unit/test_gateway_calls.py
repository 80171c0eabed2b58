"""Calls of extra endpoints at the gateway: who may, what is refused, and what a caller is told."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.break_ins import attempt
from tests.support.gateway import ECHO, PRIVATE, STANDARD, GatewayWorld, gateway_world, show_card
from tests.support.gateway_engines import operate
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.calls import ANSWERED_BY
from enginehouse.sidecar.base import Invocation, Invoked

APP = f"{ECHO}--a"
TRIAL = names.trial_of(ECHO)


class RunnerApp:
    """Stands for the engine's runner: keeps the calls, and answers `answer` once `may_answer` is set."""

    def __init__(self, world: GatewayWorld, app_id: str = APP) -> None:
        self.calls: list[Invocation] = []
        self.answer = Invoked(200, [(ANSWERED_BY, "engine"), ("content-type", "text/plain")], b"hello")
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        world.dapr.apps[app_id] = self.take

    async def take(self, call: Invocation) -> Invoked:
        self.calls.append(call)
        await self.may_answer.wait()
        return self.answer

    def answers_as(self, worker: str, *replicas: dict[str, Any]) -> None:
        """Answer broadcasts as this worker, with what each of its replicas said."""
        said = {"worker": worker, "replicas": [{"replica": f"h:{n}", **one} for n, one in enumerate(replicas)]}
        self.answer = Invoked(200, [(ANSWERED_BY, "engine")], json.dumps(said).encode())

    def says(self, status: int, **body: Any) -> None:
        self.answer = Invoked(status, [(ANSWERED_BY, "runner")], json.dumps(body).encode())


async def beat(world: GatewayWorld, engine_id: str = ECHO, **options: Any) -> None:
    """Write a worker's heartbeat, and let the gateway read it anew."""
    await world.runners[engine_id].beat(**options)
    engine = world.gateway.catalogue.get(engine_id)
    assert engine is not None
    engine.workers_read_at = 0


async def call(world: GatewayWorld, path: str = "info", tenant: str = "acme", **options: Any) -> httpx2.Response:
    engine = options.pop("engine", ECHO)
    method = options.pop("method", "GET")
    return await world.client(tenant).request(method, f"/v1/engines/{engine}/call/{path}", **options)


async def test_the_active_slots_runner_gets_the_call(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        runner = RunnerApp(world)
        await beat(world)
        answer = await call(world, "some/path?q=1", method="PUT", content=b"body", headers={"Cookie": "a=b"})
        assert (answer.status_code, answer.text) == (200, "hello")
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["x-enginehouse-engine"] == ECHO
        (got,) = runner.calls
        assert (got.method, got.path, got.query, got.body) == ("PUT", "call/one/some/path", "q=1", b"body")
        assert not {"authorization", "cookie"} & {name for name, _ in got.headers}
        await call(world, "")
        assert runner.calls[1].path == "call/one"


async def test_with_namespaces_a_runner_is_called_in_its_tenants(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, tenant_namespaces=True) as world:
        runners = [RunnerApp(world, f"{ECHO}--a.tenant-acme"), RunnerApp(world, f"{STANDARD}--a.tenant-shared")]
        await beat(world)
        await beat(world, STANDARD)
        assert (await call(world)).text == "hello"
        assert (await call(world, engine=STANDARD, tenant="admin")).text == "hello"
        assert [len(runner.calls) for runner in runners] == [1, 1]


@attempt("calls the extra endpoints of a shared engine", layer="owners and administrators only")
async def test_a_shared_engine_is_its_operators(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        runner = RunnerApp(world, f"{STANDARD}--a")
        await beat(world, STANDARD)
        problem_of(await call(world, engine="standard"), 403, "FORBIDDEN")
        problem_of(await call(world, tenant="umbra"), 404, "ENGINE_DOES_NOT_EXIST")
        assert not runner.calls
        assert (await call(world, engine=STANDARD, tenant="admin")).status_code == 200


async def test_why_an_engine_cannot_be_called_is_said(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, cards={ECHO: {"idle_at_zero": True}}) as world:
        asleep = await call(world)
        assert problem_of(asleep, 503, "ENGINE_ASLEEP")["retryable"] is True
        assert asleep.headers["retry-after"] == "30"
        await beat(world, healthy=False)
        assert "not healthy" in problem_of(await call(world), 503, "ENGINE_UNAVAILABLE")["detail"]
        await beat(world)
        problem_of(await call(world), 503, "ENGINE_UNAVAILABLE")
        runner = RunnerApp(world)
        runner.says(503, code="ENGINE_UNAVAILABLE", detail="nothing listens")
        assert "nothing listens" in problem_of(await call(world), 503, "ENGINE_UNAVAILABLE")["detail"]
        runner.says(502, code="ENGINE_CALL_FAILED", detail="too long")
        problem_of(await call(world), 502, "ENGINE_CALL_FAILED")
        runner.answer = Invoked(200, [(ANSWERED_BY, "runner")], b"?")
        problem_of(await call(world), 503, "ENGINE_UNAVAILABLE")
        await operate(world, "quarantine", {"reason": "it lies"})
        assert "it lies" in problem_of(await call(world), 503, "ENGINE_UNAVAILABLE")["detail"]


@attempt("reaches another app's routes by an engine's path", layer="paths are read in one way")
@pytest.mark.parametrize(
    "path", ["predict", "%2e%2e/jobs", "a%252fb", "healthz", "a//b", "a%5Cb", "info%0d%0aX:1", "info/"]
)
async def test_a_path_that_is_refused_reaches_nobody(tmp_path: Path, path: str) -> None:
    async with gateway_world(tmp_path) as world:
        runner = RunnerApp(world)
        await beat(world)
        url = httpx2.URL(f"http://gateway/v1/engines/{ECHO}/call/").copy_with(
            raw_path=f"/v1/engines/{ECHO}/call/{path}".encode()
        )
        problem_of(await world.client().get(url), 422, "INVALID_REQUEST")
        assert not runner.calls


@attempt("fills the gateway's memory by answers of extra endpoints", layer="bytes in hand are bounded")
async def test_calls_at_once_and_their_bytes_are_bounded(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        runner = RunnerApp(world)
        await beat(world)
        runner.may_answer.clear()
        waiting = [asyncio.create_task(call(world)) for _ in range(8)]
        await until_async(lambda: len(runner.calls) == 8)
        refused = await call(world)
        problem_of(refused, 429, "RATE_LIMITED")
        runner.may_answer.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 8
        problem_of(await call(world, method="POST", content=b"x" * (1024 * 1024 + 1)), 413, "INPUT_TOO_LARGE")
        problem_of(await call(world, headers={"X-Long": "x" * 4_000}), 422, "INVALID_REQUEST")
        runner.answer = Invoked(200, [(ANSWERED_BY, "engine")], b"x" * 100_000)
        with world.gateway.bytes_in_hand.holding("acme") as hold:
            hold(30 * 1024 * 1024)
            problem_of(await call(world), 429, "RATE_LIMITED")
        assert (await call(world)).status_code == 200


async def test_a_broadcast_has_an_answer_for_each_engine_and_shows_what_failed(tmp_path: Path) -> None:
    labels = {"labels": {"team": "nlp"}}
    async with gateway_world(tmp_path, cards={ECHO: labels, PRIVATE: labels, STANDARD: {}}) as world:
        runner = RunnerApp(world)
        runner.answers_as("worker-1", {"status": 200, "body": {"n": 1}}, {"problem": "away"})
        await beat(world)
        own = (await world.client().get("/v1/engines:info")).json()["engines"]
        assert [engine["engine"] for engine in own] == [ECHO]
        assert [(one["status"], one["problem"]) for one in own[0]["replicas"]] == [(200, None), (None, "away")]
        assert (own[0]["answered"], own[0]["unanswered"], own[0]["code"]) == (["worker-1"], [], None)
        assert [call.path for call in runner.calls] == ["call/every/info"]

        answer = await world.client("admin").post("/v1/engines:update?selector=label.team=nlp", json={"model": "v2"})
        found = {engine["engine"]: engine for engine in answer.json()["engines"]}
        assert set(found) == {ECHO, PRIVATE}
        assert found[PRIVATE]["code"] == "ENGINE_UNAVAILABLE"
        assert (runner.calls[1].method, runner.calls[1].body) == ("POST", b'{"model":"v2"}')
        none = await world.client().get("/v1/engines:info?selector=tenant=umbra")
        assert none.json() == {"engines": []}
        problem_of(await world.client().get("/v1/engines:info?selector=owner=x"), 422, "INVALID_REQUEST")
        problem_of(await world.client().post("/v1/engines:update", content=b"{"), 422, "NOT_JSON")


async def test_a_broadcast_asks_a_worker_that_has_just_come(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        RunnerApp(world).answers_as("worker-1")
        await beat(world)
        (engine,) = (await world.client().get("/v1/engines:info")).json()["engines"]
        assert engine["answered"] == ["worker-1"]
        await ScriptedRunner(world.dapr, ECHO, "worker-2").beat(beside=["worker-1"])
        runners = [RunnerApp(world) for _ in range(2)]
        for number, runner in enumerate(runners, 1):
            runner.answers_as(f"worker-{number}")
        turns = itertools.cycle(runners)
        world.dapr.apps[APP] = lambda call: next(turns).take(call)
        (engine,) = (await world.client().post("/v1/engines:update", json={})).json()["engines"]
        assert (engine["answered"], engine["unanswered"]) == (["worker-1", "worker-2"], [])


@pytest.mark.parametrize(("held", "code"), [(29.5, None), (31, "RATE_LIMITED")])
async def test_a_large_answer_to_a_broadcast_counts_once(tmp_path: Path, held: float, code: str | None) -> None:
    async with gateway_world(tmp_path) as world:
        RunnerApp(world).answers_as("worker-1", {"status": 200, "body": "x" * 1_900_000})
        await beat(world)
        with world.gateway.bytes_in_hand.holding("acme") as hold:
            hold(int(held * 1024 * 1024))
            (engine,) = (await world.client().post("/v1/engines:update", json={})).json()["engines"]
        assert engine["code"] == code
        assert code is None or "too much to be kept" in engine["problem"]


@pytest.fixture
async def tried(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    """A gateway whose engine `echo` has healthy workers in slot a, and a version on trial in slot b."""
    async with gateway_world(tmp_path, cards={ECHO: {"deployment": "first"}}) as world:
        world.runners[TRIAL] = ScriptedRunner(world.dapr, TRIAL, "worker-b")
        await show_card(world.dapr, ECHO, slot="b", version="v2", deployment="second")
        await world.runner.beat()
        await world.runners[TRIAL].beat(subscribed=False, on_trial=True, version="v2", beside=["worker-1"])
        await world.gateway.catalogue.read_card(ECHO)
        yield world


@pytest.mark.parametrize("name", ["echo@trial", "echo%40trial", TRIAL])
async def test_a_version_on_trial_is_called_by_its_address(tried: GatewayWorld, name: str) -> None:
    active, trial = RunnerApp(tried), RunnerApp(tried, f"{ECHO}--b")
    path = f"/v1/engines/{name}/call/info"
    url = httpx2.URL(f"http://gateway{path}").copy_with(raw_path=path.encode())
    answer = await tried.client().get(url)
    assert (answer.status_code, answer.headers["x-enginehouse-engine"]) == (200, TRIAL)
    assert (len(trial.calls), active.calls) == (1, [])
    await operate(tried, "quarantine", {"reason": "it lies"})
    assert "it lies" in problem_of(await tried.client().get(url), 503, "ENGINE_UNAVAILABLE")["detail"]


async def test_calls_and_broadcasts_never_reach_a_trial_unasked(tried: GatewayWorld) -> None:
    active, trial = RunnerApp(tried), RunnerApp(tried, f"{ECHO}--b")
    active.answers_as("worker-1")
    answer = await tried.client("admin").get("/v1/engines:info?selector=tenant=acme")
    assert [engine["engine"] for engine in answer.json()["engines"]] == [ECHO]
    await tried.runner.beat(healthy=False, beside=["worker-b"])
    known = tried.gateway.catalogue.get(ECHO)
    assert known is not None
    known.workers_read_at = 0
    problem_of(await call(tried), 503, "ENGINE_UNAVAILABLE")
    assert trial.calls == []
