"""The demo shows what works: an engine's problem is told with its reason, and no wait is without an end."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.commands import run_command

from enginehouse.cli.demonstration import play
from enginehouse.cli.demonstration.play import Play
from enginehouse.cli.demonstration.show import Board
from enginehouse.local.environments import EnvironmentFailed
from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.local.running import write_local

_STATE = {
    "shared--standard": {"state": "running", "problem": None},
    "acme--ocr": {"state": "failed", "problem": "it has no model"},
    "globex--embedding": {"state": "starting", "problem": "nobody listens yet"},
}


@asynccontextmanager
async def _no_system(home: Home, tenant: str) -> AsyncIterator[None]:
    yield None


def _api(request: httpx2.Request) -> httpx2.Response:
    """Know every engine, and end every job at once."""
    if request.method == "GET" and "/v1/engines/" in request.url.path:
        return httpx2.Response(200, json={"card": {"version": "v1"}})
    output = {"label": "positive", "score": 1.0}
    return httpx2.Response(200, json={"id": "j1", "status": "succeeded", "output": output})


def _play(home: Path, shown: list[object], api: httpx2.MockTransport) -> Play:
    keys = dict.fromkeys((LOCAL_TENANT, "acme", "globex"), "key")
    http = httpx2.AsyncClient(base_url="http://api", transport=api)
    return Play(Home.at(home), Board(lambda *parts: shown.extend(parts), 80), http, keys)


async def test_engines_that_fail_or_never_come_up_do_not_keep_the_others_from_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play, "example_system", _no_system)
    monkeypatch.setattr(play, "_UP_SECONDS", 0.3)
    shown: list[object] = []
    run = _play(tmp_path, shown, httpx2.MockTransport(_api))
    run.home.state_file.write_text(json.dumps({"engines": _STATE}))
    await run.run()
    assert set(run.problems) == {"acme--ocr", "globex--embedding"}
    assert run.problems["acme--ocr"].startswith("It did not start: it has no model")
    assert run.problems["globex--embedding"].startswith("It is still starting after 0.3 s.")
    assert len([line for line in shown if str(line).startswith("shared--standard")]) == 4


async def test_an_api_that_does_not_answer_is_a_reason_and_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    monkeypatch.setattr(play, "example_system", _no_system)
    run = _play(tmp_path, [], httpx2.MockTransport(refuse))
    state = {engine: {"state": "running", "problem": None} for engine in _STATE}
    run.home.state_file.write_text(json.dumps({"engines": state}))
    await run.run()
    assert set(run.problems) == set(_STATE)
    assert all("The API did not answer" in reason for reason in run.problems.values())


async def test_a_system_whose_packages_cannot_be_installed_is_said_and_the_demo_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def cannot(home: Home, tenant: str) -> AsyncIterator[None]:
        raise EnvironmentFailed("No dapr on this machine.", "Install it.")
        yield None

    answers = {
        "shared--standard": {"label": "positive", "score": 1.0},
        "acme--ocr": {"text": "a page"},
        "globex--embedding": {"vectors": [[1.0], [1.0]]},
    }

    def api(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST" and request.url.path == "/v1/uploads":
            return httpx2.Response(200, json={"url": "http://api/put", "key": "k"})
        engine = next((name for name in answers if name in request.url.path), "shared--standard")
        card = {"card": {"version": "v1"}} if request.method == "GET" else {}
        return httpx2.Response(200, json={"id": "j1", "status": "succeeded", "output": answers[engine], **card})

    monkeypatch.setattr(play, "example_system", cannot)
    shown: list[object] = []
    run = _play(tmp_path, shown, httpx2.MockTransport(api))
    state = {engine: {"state": "running", "problem": None} for engine in _STATE}
    run.home.state_file.write_text(json.dumps({"engines": state}))
    await run.run()
    assert run.problems == {}
    (said,) = run.left_out.items()
    assert said[0].startswith("event on requests.acme")
    assert "No dapr on this machine." in said[1]
    assert len([line for line in shown if str(line).startswith("acme--ocr")]) == 2


def test_in_a_home_whose_stack_runs_its_engines_are_deployed_into_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.at(tmp_path)
    write_local(home, 4711)
    played: list[tuple[str, set[str]]] = []

    async def in_it(_: Home, url: str, *__: Any) -> dict[str, Any]:
        played.append((url, {path.name for path in home.engines.iterdir()}))
        return {"missing": {}}

    monkeypatch.setattr(Home, "is_running", lambda _: True)
    monkeypatch.setattr("enginehouse.cli.demo.play", in_it)
    done = run_command(tmp_path, "demo")
    assert (done.returncode, "Using the stack that runs" in done.stderr) == (0, True), done
    assert played == [("http://127.0.0.1:4711", set(_STATE))]
