"""Every tiny engine runs as a real process from its engine.yaml, and fails in its own way only."""

import http.client
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine_process import ENGINES, engine_processes, read_spec

FOLDERS = sorted(folder.name for folder in ENGINES.iterdir() if folder.is_dir() and folder.name != "__pycache__")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    with engine_processes(tmp_path) as start_one:
        yield start_one


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_is_named_after_its_folder(folder: str) -> None:
    assert read_spec(folder).id == f"tests--{folder.replace('_', '-')}"


def test_the_table_of_them_is_complete() -> None:
    readme = (ENGINES / "README.md").read_text()
    assert [line.split("`")[1] for line in readme.splitlines() if line.startswith("| `")] != []
    assert {line.split("`")[1] for line in readme.splitlines() if line.startswith("| `")} == set(FOLDERS)


@pytest.mark.parametrize(
    ("folder", "data", "status", "answer"),
    [
        ("echo", {"a": [1, None]}, 200, {"result": {"a": [1, None]}}),
        ("rejects", 1, 422, {"error": {"message": "this input can never work", "retryable": False}}),
        ("raises_in_predict", 1, 500, {"error": {"message": "RuntimeError: no prediction today", "retryable": True}}),
        ("sleeps", {"seconds": 0.01}, 200, {"result": {"slept": 0.01}}),
        ("blocks", {"seconds": 0.01}, 200, {"result": {"blocked": 0.01}}),
        ("blocks_loop", {"seconds": 0.01}, 200, {"result": {"blocked": 0.01}}),
        ("exits_in_predict", {"exit": False}, 200, {"result": {"exit": False}}),
        ("answers_too_much", {"bytes": 3}, 200, {"result": "xxx"}),
        ("answers_nonsense", {}, 200, {"result": "sense"}),
        ("foreign", "abc", 200, {"result": "cba"}),
        ("foreign", 5, 422, {"error": {"message": "data must be a string", "retryable": False}}),
    ],
)
def test_answers(start: Any, folder: str, data: Any, status: int, answer: Any) -> None:
    engine = start(folder)
    engine.wait_until_healthy()
    assert engine.predict(data) == (status, answer)


def test_stops_at_sigterm_once_what_is_in_hand_is_finished(start: Any) -> None:
    engine = start("sleeps")
    engine.wait_until_healthy()
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=30)
    connection.request("POST", "/predict", json.dumps({"data": {"seconds": 0.5}, "id": "j1"}))
    connection.sock.settimeout(30)
    engine.ask("GET", "/healthz")  # One more round: the prediction has begun.
    engine.popen.send_signal(signal.SIGTERM)
    assert json.loads(connection.getresponse().read()) == {"result": {"slept": 0.5}}
    connection.close()
    assert engine.popen.wait(10) == -signal.SIGTERM


def test_raises_on_load_ends_with_the_reason_as_the_last_line(start: Any) -> None:
    engine = start("raises_on_load")
    assert engine.popen.wait(30) == 1
    assert engine.log.read_text().splitlines()[-1] == "RuntimeError: the model file is damaged"


def test_slow_to_load_listens_at_once(start: Any) -> None:
    engine = start("slow_to_load", SECONDS="1")
    assert engine.wait_for_health(200, 503) == 503
    assert engine.predict(1)[0] == 503
    engine.wait_until_healthy()
    assert engine.predict(1) == (200, {"result": 1})


def test_a_load_that_never_ends_does_not_hold_up_a_stop(start: Any) -> None:
    engine = start("slow_to_load", SECONDS="3600")
    engine.wait_for_health(503)
    engine.popen.send_signal(signal.SIGINT)
    assert engine.popen.wait(10) != 0


@pytest.mark.parametrize(("folder", "code"), [("exits_in_predict", 3), ("killed_in_predict", -signal.SIGKILL)])
def test_a_process_that_ends_in_predict(start: Any, folder: str, code: int) -> None:
    engine = start(folder)
    engine.wait_until_healthy()
    with pytest.raises((OSError, http.client.HTTPException)):
        engine.predict(None)
    assert engine.popen.wait(10) == code


def test_hangs_never_answers_and_stays_healthy(start: Any) -> None:
    engine = start("hangs")
    engine.wait_until_healthy()
    with pytest.raises(TimeoutError):
        engine.predict(None, timeout=0.3)
    assert engine.ask("GET", "/healthz")[0] == 200


def test_slow_to_stop_outlives_its_sigterm(start: Any) -> None:
    engine = start("slow_to_stop", SECONDS="3600")
    engine.wait_until_healthy()
    engine.popen.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        engine.popen.wait(1)


def test_answers_too_much(start: Any) -> None:
    engine = start("answers_too_much")
    engine.wait_until_healthy()
    assert len(engine.ask("POST", "/predict", {"data": None})[1]) > 50_000_000


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("not json", 200, b"<html>It works!</html>"),
        ("nan", 200, b'{"result": NaN}'),
        ("no result", 200, b'{"answer": 1}'),
        ("redirect", 302, b""),
        ("no content", 204, b""),
    ],
)
def test_answers_nonsense(start: Any, kind: str, status: int, body: bytes) -> None:
    engine = start("answers_nonsense")
    engine.wait_until_healthy()
    assert engine.ask("POST", "/predict", {"data": {"as": kind}}) == (status, body)


def test_flaky_succeeds_in_the_end(start: Any) -> None:
    engine = start("flaky")
    engine.wait_until_healthy()
    statuses = [engine.predict({"key": "k", "failures": 2})[0] for _ in range(4)]
    assert statuses == [500, 500, 200, 200]
