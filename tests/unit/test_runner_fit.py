"""A version is fit to serve once a replica is healthy and has answered the version's own examples."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web
from tests.support.proofs import key_of
from tests.support.runner import ENGINE, PORTS, TOKEN, Gate, TinyEngine, World, begin, fails, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import Batch, EngineSpec
from enginehouse.contracts.problem import PROBLEM_MAX_CHARS
from enginehouse.runner.fit import Fitness
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import Replica

_PACE = Pace(examples_retry_seconds=0.05)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path, pace=_PACE) as made:
        yield made


async def _asked(world: World, path: str = names.RUNNER_FIT_ROUTE) -> httpx2.Response:
    transport = httpx2.ASGITransport(world.runner.health_app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://runner") as kubelet:
        return await kubelet.get(path)


async def _until_fit(world: World) -> None:
    async def is_fit() -> bool:
        return (await _asked(world)).status_code == 200

    await until_async(is_fit)


async def _until_said(world: World, said: str) -> str:
    async def found() -> str | None:
        answer = await _asked(world)
        assert answer.status_code == 503, answer.text
        return answer.text if said in answer.text else None

    text: str = await until_async(found)
    return text


def _example(folder: Path, data: Any, name: str = "example.json") -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))


async def test_the_health_pages_are_all_that_others_reach(world: World) -> None:
    for path in ("/healthz/live", names.RUNNER_ENGINE_ROUTE, "/metrics"):
        assert (await _asked(world, path)).status_code == 200
    for path in ("/healthz", names.JOBS_ROUTE, "/call/one/info", "/docs", "/"):
        assert (await _asked(world, path)).status_code == 404


async def test_a_version_without_examples_is_fit_when_a_replica_is_healthy(world: World) -> None:
    (replica,) = world.runner.pool.replicas
    world.engine.healthy = False
    world.runner.pool.set_health(replica, False)
    assert (await _asked(world)).text == "None of its replicas is healthy yet"
    world.engine.healthy = True
    await _until_fit(world)
    assert not world.engine.calls


async def test_its_own_examples_are_sent_once_and_only_when_somebody_asks(world: World, tmp_path: Path) -> None:
    _example(tmp_path, {"text": "hello"})
    _example(tmp_path, [1, 2], "examples/two.json")
    _example(tmp_path, "not: json", "examples/text.json")
    assert (await world.run("a job")).output == "a job"
    assert len(world.engine.calls) == 1
    assert (await _asked(world)).text == "Its own examples are being tried"
    await _until_fit(world)
    await _until_fit(world)
    assert [call["data"] for call in world.engine.calls[1:]] == [{"text": "hello"}, "not: json", [1, 2]]


async def test_which_example_is_answered_wrongly_is_said_and_tried_again_after_a_while(
    world: World, tmp_path: Path
) -> None:
    _example(tmp_path, "hello")
    world.engine.predict = fails
    text = await _until_said(world, "v1 does not answer its own example.json: ")
    assert "500" in text
    calls = len(world.engine.calls)
    await until_async(lambda: _asked_again(world, calls))
    world.engine.predict = TinyEngine().predict
    await _until_fit(world)


async def _asked_again(world: World, calls: int) -> bool:
    assert (await _asked(world)).status_code == 503
    return len(world.engine.calls) > calls


async def test_what_an_engine_says_is_bounded_and_cleaned(world: World, tmp_path: Path) -> None:
    _example(tmp_path, "hello")

    async def lies(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "\x1b[31m" + "x" * 60_000}}, status=422)

    world.engine.predict = lies
    text = await _until_said(world, "example.json")
    assert "\x1b" not in text
    assert len(text) <= PROBLEM_MAX_CHARS


async def test_an_example_without_an_answer_in_the_engines_own_time(tmp_path: Path) -> None:
    _example(tmp_path, "hello")
    async with runner_world(tmp_path, pace=_PACE, execution_timeout_seconds=0.1) as world:
        Gate(world)
        assert "example.json: no answer within 0.1 s" in await _until_said(world, "no answer")


async def test_an_example_waits_for_a_place_as_a_job_does(tmp_path: Path) -> None:
    _example(tmp_path, "the example")
    async with runner_world(tmp_path, pace=_PACE, concurrency=1) as world:
        gate = Gate(world)
        delivery = begin(world, names.new_job_id())
        await until_async(lambda: gate.entered == 1)
        await _until_said(world, "being tried")
        await until_async(lambda: world.runner.pool._waiting)
        assert gate.entered == 1
        gate.open.set()
        assert await delivery
        await _until_fit(world)
        assert gate.entered == 2


async def test_an_engine_with_batches_answers_an_example_alone(tmp_path: Path) -> None:
    _example(tmp_path, "the example")
    async with runner_world(tmp_path, pace=_PACE, batch=Batch(max_size=4)) as world:
        await _until_fit(world)
        assert [call["data"] for call in world.engine.calls] == ["the example"]
        assert not world.engine.batches


async def test_an_ill_engine_is_not_fit_although_it_has_answered(world: World, tmp_path: Path) -> None:
    _example(tmp_path, "hello")
    await _until_fit(world)
    replica: Replica = world.runner.pool.replicas[0]
    world.engine.healthy = False
    world.runner.pool.set_health(replica, False)
    assert (await _asked(world)).status_code == 503
    world.engine.healthy = True
    await _until_fit(world)
    assert len(world.engine.calls) == 1


async def test_an_engine_that_falls_asleep_stays_as_fit_as_it_was(world: World) -> None:
    pool, fitness = world.runner.pool, world.runner._fitness
    assert fitness.misfit(None, is_asleep=False) == "Its own examples are being tried"
    await _until_fit(world)
    pool.set_health(pool.replicas[0], False)
    assert fitness.misfit(None, is_asleep=True) is None
    fitness._answered = False
    assert fitness.misfit(None, is_asleep=True) == "It has no replica yet"
    assert fitness.misfit("nothing listens", is_asleep=False) == "nothing listens"


async def test_of_another_protocol_no_examples_are_sent(tmp_path: Path) -> None:
    spec = EngineSpec.model_validate({"tenant": "acme", "name": "echo", "protocol": "openai", "openai": {"model": "m"}})
    _example(tmp_path, "hello")
    async with runner_world(tmp_path) as world:
        runner = world.runner
        fitness = Fitness(
            spec, tmp_path, runner.pool, runner._executor, _PACE, output_max_bytes=1024, is_on_trial=lambda: None
        )
        assert fitness.misfit(None, is_asleep=False) is None


def _outside_address() -> str | None:
    """Return an address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address


async def test_the_process_shows_its_health_to_others_and_takes_deliveries_on_loopback_alone(tmp_path: Path) -> None:
    delivery, health, dapr = PORTS.take(), PORTS.take(), PORTS.take()
    (tmp_path / "engine.yaml").write_text("tenant: acme\nname: echo\n")
    environment = {
        **os.environ,
        "ENGINEHOUSE_RUNNER_SPEC": str(tmp_path / "engine.yaml"),
        "ENGINEHOUSE_RUNNER_SLOT": "a",
        "ENGINEHOUSE_RUNNER_WORKER": "one",
        "ENGINEHOUSE_RUNNER_ENGINE_SERVICE": f"localhost:{PORTS.take()}",
        "ENGINEHOUSE_RUNNER_DELIVERY_PORT": str(delivery),
        "ENGINEHOUSE_RUNNER_HEALTH_PORT": str(health),
        "ENGINEHOUSE_RUNNER_PROOF_KEY": key_of(ENGINE),
        "DAPR_HTTP_PORT": str(dapr),
        "DAPR_API_TOKEN": TOKEN,
        "APP_API_TOKEN": TOKEN,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "enginehouse.runner", env=environment, stdout=subprocess.DEVNULL
    )
    address = _outside_address() or "127.0.0.1"
    try:
        async with httpx2.AsyncClient(timeout=5, trust_env=False) as others:

            async def lives() -> bool:
                try:
                    return (await others.get(f"http://{address}:{health}/healthz/live")).status_code == 200
                except httpx2.TransportError:
                    return False

            await until_async(lives)
            assert (await others.get(f"http://{address}:{health}{names.RUNNER_FIT_ROUTE}")).status_code == 503
            assert (await others.post(f"http://{address}:{health}{names.JOBS_ROUTE}", content=b"{}")).status_code == 404
            assert (await others.get(f"http://127.0.0.1:{delivery}/healthz/live")).status_code == 200
            if address != "127.0.0.1":
                with pytest.raises(httpx2.ConnectError):
                    await others.get(f"http://{address}:{delivery}/healthz/live")
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()
