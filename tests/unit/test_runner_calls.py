"""A runner passes the gateway's calls on to its engine, and nobody else's."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.runner import TOKEN, World, runner_world

from enginehouse.contracts.calls import ANSWERED_BY, ReplicaAnswer
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import RateLimited
from enginehouse.runner.broadcasts import Broadcasts
from enginehouse.runner.calls import prediction_paths

GATEWAY = {"dapr-caller-app-id": "gateway", "dapr-api-token": TOKEN}


async def ask(world: World, path: str, headers: dict[str, str] | None = None, **options: Any) -> httpx2.Response:
    transport = httpx2.ASGITransport(world.runner.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://runner") as client:
        return await client.request("POST", path, headers=GATEWAY if headers is None else headers, **options)


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
