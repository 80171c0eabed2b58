"""A runner passes the gateway's calls on to its engine, and nobody else's."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.break_ins import attempt
from tests.support.proofs import key_of
from tests.support.runner import ENGINE, TOKEN, World, runner_world

from enginehouse.contracts.calls import ANSWERED_BY, PROOF_HEADER, ReplicaAnswer
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import RateLimited
from enginehouse.contracts.proofs import CALL_PROOF_SECONDS, call_proof
from enginehouse.runner.broadcasts import Broadcasts
from enginehouse.runner.calls import prediction_paths

GATEWAY = {"dapr-caller-app-id": "gateway", "dapr-api-token": TOKEN}


async def ask(
    world: World, path: str, headers: dict[str, str] | None = None, content: bytes = b"", shown: str | None = None
) -> httpx2.Response:
    """Call the runner as the gateway does; or with other `headers`, or showing another proof."""
    called, _, query = path[1:].partition("?")
    shown = call_proof(key_of(ENGINE), "POST", called, query, content) if shown is None else shown
    given = {PROOF_HEADER: shown, **(GATEWAY if headers is None else headers)}
    transport = httpx2.ASGITransport(world.runner.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://runner") as client:
        return await client.request("POST", path, headers=given, content=content)


@attempt(
    "calls an engine's extra routes with a proof of another call, or none", layer="a proof in each call of the gateway"
)
async def test_a_call_is_taken_with_its_own_proof_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/call/one/openapi.json"
    async with runner_world(tmp_path) as world:
        proofs = [call_proof(key_of(ENGINE), *call, b"") for call in (("POST", path[1:], "a=1"), ("GET", path[1:], ""))]
        proofs += [call_proof(key_of("acme--other"), "POST", path[1:], "", b""), "", "x", "9" * 300, "1."]
        monkeypatch.setattr(time, "time", lambda real=time.time: real() - CALL_PROOF_SECONDS - 1)
        proofs.append(call_proof(key_of(ENGINE), "POST", path[1:], "", b""))
        monkeypatch.undo()
        for shown in proofs:
            answer = await ask(world, path, shown=shown)
            assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN"), shown
        assert (
            await ask(world, path, content=b"{}", shown=call_proof(key_of(ENGINE), "POST", path[1:], "", b"[]"))
        ).status_code == 403


@attempt(
    "calls a runner by service invocation, as another app or without the token",
    layer="access control, the app's token, the caller's name",
)
async def test_only_the_gateway_with_its_sidecars_token_is_served(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        assert (await ask(world, "/call/one/openapi.json")).headers[ANSWERED_BY] == "engine"
        for strangers in ({}, {"dapr-api-token": TOKEN}):
            assert (await ask(world, "/call/one/openapi.json", strangers)).status_code == 404
        for strangers in (
            {**GATEWAY, "dapr-caller-app-id": "acme--other--a"},
            {**GATEWAY, "dapr-api-token": "wrong"},
            {"dapr-caller-app-id": "gateway"},
        ):
            for path in ("/call/one/openapi.json", "/jobs", "/metrics"):
                assert (await ask(world, path, strangers)).status_code == 403
        assert (await ask(world, "/jobs")).status_code == 404


@attempt("reaches an engine's /predict beside its queue", layer="the paths of jobs are closed")
async def test_the_paths_of_jobs_are_closed_and_a_large_body_too(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        for path in ("predict", "predict/batch", "healthz", "x/%2e%2e/predict"):
            answer = await ask(world, f"/call/one/{path}")
            assert (answer.status_code, answer.headers[ANSWERED_BY]) == (422, "runner")
        assert (await ask(world, "/call/one/x", content=b"x" * (1024 * 1024 + 1))).status_code == 413
        assert not world.engine.calls


async def test_an_engine_that_is_away_is_told_apart_from_its_own_503(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        await world.engine.stop()
        answer = await ask(world, "/call/one/info")
        assert (answer.status_code, answer.headers[ANSWERED_BY]) == (503, "runner")
        assert answer.json()["code"] == "ENGINE_UNAVAILABLE"


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, []),
        (
            {"protocol": "openai", "openai": {"model": "m"}},
            ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"],
        ),
        ({"protocol": "json", "json": {"path": "/Classify", "health": "/health"}}, ["/classify", "/health"]),
        ({"protocol": "open-inference", "open_inference": {"model": "m"}}, ["/v2/*/infer"]),
    ],
)
def test_ready_made_servers_have_other_paths_of_jobs(options: dict[str, Any], paths: list[str]) -> None:
    assert prediction_paths(EngineSpec.model_validate({"tenant": "acme", "name": "one", **options})) == paths


async def test_every_replica_is_asked_and_one_that_is_away_hides_no_other(tmp_path: Path) -> None:
    async with runner_world(tmp_path) as world:
        answer = (await ask(world, "/call/every/update?broadcast=1")).json()
        (replica,) = answer["replicas"]
        assert answer["worker"] == "worker-1"
        assert (replica["replica"], replica["status"]) == (world.engine.url.removeprefix("http://"), 404)
        await world.engine.stop()
        away = await ask(world, "/call/every/update?broadcast=2")
        assert away.headers[ANSWERED_BY] == "engine"
        assert "nothing listens" in away.json()["replicas"][0]["problem"]
        assert (await ask(world, "/call/every/update?broadcast=1")).json() == answer, "it is not sent again"
        assert (await ask(world, "/call/every/predict")).status_code == 404
        assert "must name the broadcast" in (await ask(world, "/call/every/update")).json()["detail"]


async def test_a_broadcast_that_comes_again_while_it_is_being_done_is_not_done_twice() -> None:
    broadcasts, may_answer, asked = Broadcasts(), asyncio.Event(), []

    async def ask_all() -> list[ReplicaAnswer]:
        asked.append(1)
        await may_answer.wait()
        return [ReplicaAnswer(replica="h:1", status=200)]

    first = asyncio.create_task(broadcasts.once("one", ask_all))
    await asyncio.sleep(0)
    assert await broadcasts.once("one", ask_all) is None
    may_answer.set()
    assert await first == await broadcasts.once("one", ask_all) == [ReplicaAnswer(replica="h:1", status=200)]
    await broadcasts.once("another", ask_all)
    assert len(asked) == 2


async def test_a_broadcast_is_refused_rather_than_another_one_forgotten() -> None:
    async def ask_all() -> list[ReplicaAnswer]:
        return []

    broadcasts = Broadcasts()
    for number in range(256):
        await broadcasts.once(str(number), ask_all)
    with pytest.raises(RateLimited):
        await broadcasts.once("one more", ask_all)
    assert await broadcasts.once("0", ask_all) == []


async def test_a_call_without_proof_takes_no_place_and_its_body_is_not_waited_for(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with runner_world(tmp_path) as world:
        path, headers = "/call/one/openapi.json", {**GATEWAY, PROOF_HEADER: "1.2.3"}
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(world.runner.app), base_url="http://runner"
        ) as client:
            calls = [client.post(path, headers=headers, content=endless()) for _ in range(40)]
            answers = await asyncio.wait_for(asyncio.gather(*calls), 20)
        assert {answer.status_code for answer in answers} == {403}
        assert (await ask(world, path)).headers[ANSWERED_BY] == "engine"
