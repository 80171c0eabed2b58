"""A runner says why its engine cannot work: on its own, or as its supervisor told it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web
from tests.support.runner import ENGINE, PORTS, STORE, TinyEngine, World, runner_settings, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineSpec, Heartbeat
from enginehouse.contracts.problem import PROBLEM_FILE, PROBLEM_MAX_CHARS, problem_text
from enginehouse.runner.app import Runner
from enginehouse.runner.pace import DEFAULT_PACE
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar

_SOON = replace(DEFAULT_PACE, problem_poll_seconds=0.01, down_told_after_seconds=0.05, heartbeat_seconds=60)


def _told(dapr: FakeDapr) -> str | None:
    entry = dapr.stores[STORE].get(names.worker_key("worker-1"))
    return Heartbeat.model_validate_json(entry.value).problem if entry else None


async def _until_told(dapr: FakeDapr, said: str) -> str:
    found: str = await until_async(lambda: (text := _told(dapr)) and said in text and text, f"it is told: {said}")
    return found


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path, pace=_SOON) as made:
        yield made


class _Down:
    """A runner whose engine is not up."""

    def __init__(self, folder: Path, port: int) -> None:
        self.dapr = FakeDapr()
        settings = runner_settings(folder, f"http://127.0.0.1:{port}")
        spec = EngineSpec(tenant="acme", name="echo")
        self.runner = Runner(settings, spec, FakeSidecar(self.dapr, f"{ENGINE}--a"), _SOON)

    async def __aenter__(self) -> "_Down":
        await self.runner.start()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.runner.stop()


async def test_a_port_that_nobody_listens_on_is_named(tmp_path: Path) -> None:
    port = PORTS.take()
    async with _Down(tmp_path, port) as down:
        said = await _until_told(down.dapr, "nothing listens")
        assert said == (
            f"After 0.05 s, nothing listens on 127.0.0.1:{port}: the engine must listen on the port in its variable PORT."
        )


async def test_what_a_health_check_answers_is_told_and_forgotten_when_it_is_well(tmp_path: Path) -> None:
    engine = TinyEngine()
    engine.healthy = False
    await engine.start()
    async with _Down(tmp_path, engine.port) as down:
        said = await _until_told(down.dapr, "answers 503")
        assert "200 means that it can work" in said
        engine.healthy = True
        await until_async(lambda: _told(down.dapr) is None, "a heartbeat at once says that it is well")
    await engine.stop()


@pytest.mark.parametrize("status", [404, 302, 500])
async def test_any_other_answer_is_told_with_its_text(tmp_path: Path, status: int) -> None:
    async def healthz(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="no\x1b[2J such page")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    serving = web.AppRunner(app)
    await serving.setup()
    await web.TCPSite(serving, "127.0.0.1", port := PORTS.take()).start()
    async with _Down(tmp_path, port) as down:
        said = await _until_told(down.dapr, f"answers {status}")
        assert "(no [2J such page)" in said
    await serving.cleanup()


async def test_a_server_that_does_not_speak_http_is_told_of(tmp_path: Path) -> None:
    async def mumble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        writer.close()

    server = await asyncio.start_server(mumble, "127.0.0.1", port := PORTS.take())
    async with server, _Down(tmp_path, port) as down:
        await _until_told(down.dapr, "it must answer in HTTP")


async def test_a_supervisor_knows_better_and_its_word_is_told_at_once(world: World, tmp_path: Path) -> None:
    await until_async(lambda: names.worker_key("worker-1") in world.dapr.stores[STORE])
    assert _told(world.dapr) is None
    (tmp_path / PROBLEM_FILE).write_text("It keeps ending.\x07 Its last lines:\nSyntaxError\n")
    await _until_told(world.dapr, "It keeps ending.␇ Its last lines:\nSyntaxError")
    (tmp_path / PROBLEM_FILE).unlink()
    await until_async(lambda: _told(world.dapr) is None, "it is forgotten")


async def test_an_engine_is_expected_only_once_its_supervisor_has_nothing_more_to_say(tmp_path: Path) -> None:
    (tmp_path / PROBLEM_FILE).write_text("Its environment is being made.")
    async with _Down(tmp_path, PORTS.take()) as down:
        await _until_told(down.dapr, "environment")
        assert down.runner._problems.found is None
        (tmp_path / PROBLEM_FILE).unlink()
        await _until_told(down.dapr, "nothing listens")


async def test_a_supervisor_can_ask_what_the_health_checks_found(tmp_path: Path) -> None:
    async with _Down(tmp_path, PORTS.take()) as down:
        transport = httpx2.ASGITransport(down.runner.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://runner") as supervisor:
            await _until_told(down.dapr, "nothing listens")
            answer = await supervisor.get(names.RUNNER_ENGINE_ROUTE)
            assert (answer.status_code, answer.text) == (503, _told(down.dapr))
            (tmp_path / PROBLEM_FILE).write_text("private")
            await _until_told(down.dapr, "private")
            # What the supervisor said may quote the engine: it goes to the gateway only.
            answer = await supervisor.get(names.RUNNER_ENGINE_ROUTE)
            assert (answer.status_code, answer.text) == (200, "nothing is wrong")


def test_a_long_problem_keeps_its_beginning_and_its_end() -> None:
    text = problem_text("It keeps ending.\n" + "x" * 10_000 + "\nMemoryError\n")
    assert len(text) <= PROBLEM_MAX_CHARS
    assert text.startswith("It keeps ending.\n")
    assert text.endswith("\nMemoryError")
