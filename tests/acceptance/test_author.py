"""An author makes an engine, tests it alone, deploys it and gets an answer; and each mistake of a newcomer shows its cause."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.dapr import PORTS
from tests.support.documents import ROOT
from tests.support.stack import StackHandle, running_stack, until
from typer.testing import CliRunner

from enginehouse.cli.app import app
from enginehouse.contracts.engine import EngineSpec
from enginehouse.local.home import Home
from enginehouse.registry.deploy import add_key
from enginehouse.yaml_files import read_yaml

pytestmark = pytest.mark.timeout(300)  # The first run downloads what engines' environments need.

# In this process, because starting Python for each of them would take a minute.
_COMMAND = CliRunner()
_NO_ENVIRONMENT = dict.fromkeys(name for name in os.environ if name.startswith("ENGINEHOUSE_"))

_OURS = "run: {command: [python, -m, enginehouse.engine, engine]}\n"
_CODE = """
from pydantic import BaseModel
from enginehouse.engine import Engine

class Text(BaseModel):
    text: str

class Count(BaseModel):
    words: int

class Mine(Engine):
    def predict(self, data: Text) -> Count:
        return RESULT
"""
_PLAIN = "run: {command: [python, serve.py]}\n"
_SERVER = """
import json, os, signal, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200 if self.path == "/healthz" else 404, {})

    def do_POST(self):
        data = json.loads(self.rfile.read(int(self.headers["content-length"])))["data"]
        if not isinstance(data, dict) or not isinstance(data.get("text"), str):
            return self.answer(422, {"error": {"message": "text must be a string"}})
        self.answer(200, {"result": {"words": len(data["text"].split())}})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def _served(old: str, new: str) -> dict[str, str]:
    assert old in _SERVER
    return {"serve.py": _SERVER.replace(old, new)}


def _answered(result: str) -> dict[str, str]:
    return {"engine.py": _CODE.replace("RESULT", result)}


_SOUND = _answered("Count(words=len(data.text.split()))")
_RESULT = '{"result": {"words": len(data["text"].split())}}'


@dataclass(frozen=True)
class Mistake:
    """What a newcomer did wrong, and what must be said about it."""

    says: list[str]
    check: str
    run: str = _PLAIN
    files: dict[str, str] = field(default_factory=lambda: {"serve.py": _SERVER})
    head: str = "tenant: acme\nname: sentiment\n"
    options: tuple[str, ...] = ()


_FIXED_PORT = PORTS.take()
_MISTAKES = {
    "capital letters": Mistake(
        ["engine.yaml", "name", "'Sentiment' is not a valid name", "a-z"],
        "files",
        head="tenant: acme\nname: Sentiment\n",
    ),
    "wrong tenant": Mistake(
        ["there is no tenant 'acne' here", "did you mean 'acme'", "enginehouse tenant add acne"],
        "files",
        head="tenant: acne\nname: sentiment\n",
    ),
    "misspelt key": Mistake(["concurency", "did you mean concurrency"], "files", run=f"{_PLAIN}concurency: 2\n"),
    "no run": Mistake(["it has no `run`", "command: [...]"], "files", run="image: x:v1\n"),
    "requirements file missing": Mistake(
        ["there is no file requirements.txt"],
        "files",
        run="run: {command: [python, serve.py], requirements: requirements.txt}\n",
    ),
    "package that cannot be installed": Mistake(
        ["The requirements of acme--sentiment cannot be installed", "torn-1.0"],
        "environment",
        run="run: {command: [python, serve.py], requirements: requirements.txt}\n",
        files={
            "serve.py": _SERVER,
            "requirements.txt": "./torn-1.0-py3-none-any.whl\n",
            "torn-1.0-py3-none-any.whl": "not a wheel",
        },
    ),
    "syntax error": Mistake(
        ["ended with exit status 1", "engine.py", "SyntaxError"],
        "start",
        run=_OURS,
        files={"engine.py": _CODE.replace("data: Text)", "data: Text")},
    ),
    "package not listed": Mistake(
        [
            "Add the package that has the module 'pandas' to a file, and name that as run.requirements",
            "No module named 'pandas'",
        ],
        "start",
        run=_OURS,
        files={"engine.py": f"import pandas\n{_CODE}"},
    ),
    "module of another name": Mistake(
        ["names the module engine, and there is no engine.py in the folder"], "start", run=_OURS, files={"model.py": ""}
    ),
    "no such program": Mistake(["cannot start no-such-program"], "start", run="run: {command: [no-such-program]}\n"),
    "hard-coded port": Mistake(
        [f"It listens on port {_FIXED_PORT}, and must listen on the port in its variable PORT"],
        "start",
        files=_served('int(os.environ["PORT"])', str(_FIXED_PORT)),
    ),
    "another address": Mistake(
        ["It listens on 127.0.0.2 only, and must listen on 127.0.0.1"],
        "start",
        files=_served('"127.0.0.1"', '"127.0.0.2"'),
    ),
    "too much memory": Mistake(
        ["more memory than the 256 MiB that resources.memory", "MemoryError"],
        "start",
        run=f"{_PLAIN}resources: {{memory: 256Mi}}\n",
        files={"serve.py": f"x = bytearray(700_000_000)\n{_SERVER}"},
    ),
    "no healthz": Mistake(
        ["GET /healthz answers 404", "must have this route"], "health", files=_served('"/healthz"', '"/health"')
    ),
    "never listens": Mistake(
        ["After 1 s, nothing listens on 127.0.0.1:", "the port in its variable PORT"],
        "health",
        run="run: {command: [sleep, 1000]}\n",
        options=("--timeout", "1"),
    ),
    "schema that refers elsewhere": Mistake(
        ["The input schema of its /openapi.json would not be used: its $ref", "'https://elsewhere/x'"],
        "schema",
        files=_served(
            "self.answer(200 if self.path",
            """self.answer(200, {"paths": {"/predict": {"post": {"requestBody": {"content": {"application/json": """
            """{"schema": {"properties": {"data": {"$ref": "https://elsewhere/x"}}}}}}}}}}) """
            """if "openapi" in self.path else self.answer(200 if self.path""",
        ),
    ),
    "example that is not JSON": Mistake(
        ["example.json is not JSON"], "example", files={"serve.py": _SERVER, "example.json": "{'text': 1}"}
    ),
    "example that does not fit": Mistake(
        ["example.json does not fit the engine's input schema", "input.text"],
        "example",
        run=_OURS,
        files={**_SOUND, "example.json": '{"text": 5}'},
    ),
    "bare result": Mistake(
        ['example.json is answered with {"words": 2}', 'must be {"result": …}', '{"result": {"words": 2}}'],
        "example",
        files=_served(_RESULT, '{"words": len(data["text"].split())}'),
    ),
    "NaN": Mistake(
        ["result.scores[1]: JSON cannot hold NaN"],
        "example",
        files=_served(_RESULT, '{"result": {"scores": [1.0, float("nan")]}}'),
    ),
    "NaN in our package": Mistake(
        ["result.score: nan, a number that JSON does not have"],
        "example",
        run=_OURS,
        files={
            "engine.py": _CODE.replace("-> Count", "-> dict[str, float]").replace("RESULT", "{'score': float('nan')}")
        },
    ),
    "numpy": Mistake(
        ["Object of type float32 is not JSON serializable", "float(x) of a NumPy number"],
        "example",
        run="run: {command: [python, serve.py], requirements: requirements.txt}\n",
        files={
            **_served(_RESULT, '{"result": __import__("numpy").float32(1)}'),
            "requirements.txt": f"numpy=={version('numpy')}\n",
        },
    ),
    "result of another type": Mistake(
        ["the result is not of the declared type", "words"], "example", run=_OURS, files=_answered("{'words': 'many'}")
    ),
    "exception": Mistake(["KeyError: 'model'", "engine.py"], "example", run=_OURS, files=_answered("{}['model']")),
    "exits": Mistake(
        ["example.json ends the engine, with exit status 3"],
        "example",
        files=_served("self.answer(200, {", "os._exit(3, ) or self.answer(200, {"),
    ),
    "too slow": Mistake(
        ["gave no answer within execution_timeout_seconds of engine.yaml, which is 0.5 s"],
        "example",
        run=f"{_PLAIN}execution_timeout_seconds: 0.5\n",
        files=_served("self.answer(200, {", "time.sleep(60) or self.answer(200, {"),
    ),
    "bad input is a failure": Mistake(
        ["The input null fails: the engine answered 500", "must be answered with 422"],
        "bad input",
        files=_served("422", "500"),
    ),
    "does not stop": Mistake(
        ["does not end within 5 s of SIGTERM"],
        "stop",
        files=_served("ThreadingHTTPServer((", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nThreadingHTTPServer(("),
    ),
}
_LATE = ("stop", "bad input")
"""Checks that may come after others have passed."""


def _write(folder: Path, mistake: Mistake) -> Path:
    files = {"engine.yaml": mistake.head + mistake.run, "example.json": '{"text": "two words"}', **mistake.files}
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def _invoke(home: Path | None, *arguments: str) -> tuple[int, str, str]:
    """Run a command; return its exit status and what it printed, with runs of space as one."""
    variables = {**_NO_ENVIRONMENT, "COLUMNS": "80"} | ({"ENGINEHOUSE_HOME": str(home)} if home else {})
    result = _COMMAND.invoke(app, list(arguments), env=variables)
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Home.at(tmp_path_factory.mktemp("home"))
    add_key(made.tenants, "acme")
    return made.path


@pytest.mark.parametrize("name", _MISTAKES)
def test_a_newcomers_mistake_shows_its_cause(name: str, home: Path, tmp_path: Path) -> None:
    mistake = _MISTAKES[name]
    folder = _write(tmp_path / "engine", mistake)
    began = time.monotonic()
    status, said, steps = _invoke(home, "engines", "test", str(folder), *mistake.options)
    print(f"{name}: {time.monotonic() - began:.1f} s\n{said}")
    assert status == 1, said + steps
    assert all(part in said for part in mistake.says), said
    failed = [check for check in _checks(said) if check.startswith("failed")]
    assert failed == [f"failed {mistake.check}"], said
    assert "Traceback (most recent call last)" not in steps


def _checks(said: str) -> list[str]:
    words = said.split()
    return [
        " ".join(words[at : at + (3 if "bad" in words[at + 1] else 2)])
        for at, word in enumerate(words)
        if word in ("ok", "failed") and at + 1 < len(words)
    ]


def test_all_is_said_as_json_as_well(home: Path, tmp_path: Path) -> None:
    folder = _write(tmp_path / "engine", _MISTAKES["bare result"])
    result = _COMMAND.invoke(
        app, ["engines", "test", str(folder), "--json"], env={**_NO_ENVIRONMENT, "ENGINEHOUSE_HOME": str(home)}
    )
    document = json.loads(result.stdout)
    assert (result.exit_code, document["id"], document["ok"]) == (1, "acme--sentiment", False)
    verdicts = {check["check"]: check["verdict"] for check in document["checks"]}
    assert (verdicts["files"], verdicts["health"], verdicts["example"]) == ("ok", "ok", "failed")


def test_nothing_is_wrong_with_a_sound_engine(home: Path, tmp_path: Path) -> None:
    folder = _write(tmp_path / "engine", Mistake([], "", run=_OURS, files=_SOUND))
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}
    status, said, _ = _invoke(home, "engines", "test", str(folder))
    assert (status, "failed" in said, "note" in said) == (0, False, False), said
    for check in (
        "files",
        "environment",
        "start",
        "health",
        "schema",
        "example",
        "time",
        "two at once",
        "bad input",
        "memory",
        "stop",
    ):
        assert f"ok {check}" in said
    assert {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))} == before


def test_an_engine_in_another_language_is_tested_alike(tmp_path: Path) -> None:
    folder = ROOT / "tests" / "engines" / "foreign"
    status, said, _ = _invoke(None, "engines", "test", str(folder))
    assert status == 0, said
    assert "note schema It has no /openapi.json" in said
    assert "ok bad input" in said
    assert "ok stop" in said


@pytest.mark.parametrize(
    ("predict", "said"),
    [
        (
            "Count(words=1 // (0 if '0' in data.text else 1))",
            """ZeroDivisionError: integer division or modulo by zero. The smallest such input: {"text": "0"}""",
        ),
        ("__import__('os')._exit(4) if len(data.text) > 1 else Count(words=1)", "ends the engine, with exit status 4"),
    ],
    ids=["raises", "exits"],
)
def test_the_fuzzer_finds_a_small_input_that_breaks_an_engine(
    home: Path, tmp_path: Path, predict: str, said: str
) -> None:
    folder = _write(
        tmp_path / "engine", Mistake([], "", run=_OURS, files={**_answered(predict), "example.json": '{"text": "a"}'})
    )
    began = time.monotonic()
    status, output, _ = _invoke(home, "engines", "test", str(folder), "--fuzz")
    print(f"{time.monotonic() - began:.1f} s\n{output}")
    assert status == 1
    assert "failed fuzz" in output
    assert said in output


def test_an_interrupted_test_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = _write(tmp_path / "engine", _MISTAKES["never listens"])
    (scratch := tmp_path / "tmp").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGINEHOUSE_")}
    command = [sys.executable, "-m", "enginehouse.cli.main", "engines", "test", str(folder)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**kept, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def engine() -> psutil.Process | None:
        children = psutil.Process(process.pid).children(recursive=True)
        return next((child for child in children if child.name() == "sleep"), None)

    found = until(engine, "the engine runs")
    assert found
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    until(lambda: not found.is_running(), "the engine is gone")
    assert [path.name for path in scratch.iterdir() if path.name.startswith("enginehouse-test")] == []


class TestNew:
    """`engines new`."""

    @pytest.mark.parametrize(
        ("name", "engine", "made"),
        [
            ("acme/sentiment", "acme--sentiment", "sentiment"),
            ("acme--page-count", "acme--page-count", "page-count"),
            ("words", "demo--words", "words"),
        ],
    )
    def test_the_engine_has_its_own_name_everywhere(
        self, name: str, engine: str, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        status, said, _ = _invoke(None, "engines", "new", name)
        assert status == 0
        assert read_yaml(EngineSpec, tmp_path / made / "engine.yaml").id == engine
        assert {path.name for path in (tmp_path / made).iterdir()} == {
            path.name for path in (ROOT / "engine_template").iterdir() if path.is_file()
        }
        for path in (tmp_path / made).iterdir():
            assert "my-engine" not in path.read_text().lower(), path
            assert "myengine" not in path.read_text().lower(), path
        for command in ("engines test", "engines deploy", f"submit {engine} --input @{made}/example.json"):
            assert f"enginehouse {command}" in said
        assert ("enginehouse tenant add acme" in said) == engine.startswith("acme")

    def test_it_fills_an_empty_folder_and_refuses_all_others(self, tmp_path: Path) -> None:
        (empty := tmp_path / "empty").mkdir()
        assert _invoke(None, "engines", "new", "acme/sentiment", str(empty))[0] == 0
        before = sorted(path.read_bytes() for path in empty.iterdir())
        status, _, said = _invoke(None, "engines", "new", "acme/other", str(empty))
        assert (status, "not empty" in said) == (1, True)
        (file := tmp_path / "file").touch()
        assert "is a file" in _invoke(None, "engines", "new", "acme/other", str(file))[2]
        assert sorted(path.read_bytes() for path in empty.iterdir()) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("Acme/Sentiment", ["'acme' would be right", "'sentiment' would be right"]),
            ("acme/gateway", ["'gateway' is a reserved name", "'my-gateway' would be right"]),
            ("acme/word_count", ["'word-count' would be right"]),
            ("acme/a--b", ["'a-b' would be right"]),
            ("kube-system/x", ["'kube-system' is a reserved name", "'x' is not a valid name"]),
            ("/", ["tenant '' is not", "engine '' is not"]),
            ("../../etc", ["is not a valid name"]),
        ],
    )
    def test_all_mistakes_in_names_are_told_at_once(
        self, name: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        status, _, told = _invoke(None, "engines", "new", name)
        assert status == 1
        assert all(part in told for part in said), told
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    with running_stack(tmp_path_factory.mktemp("stack"), platform_engines="none") as handle:
        yield handle


def test_from_nothing_to_the_first_answer(stack: StackHandle, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGINEHOUSE_")}
    variables = {**kept, "ENGINEHOUSE_HOME": str(stack.home.path), "COLUMNS": "80"}
    core = {name: process["pid"] for name, process in stack.processes().items()}
    times: dict[str, float] = {}

    def run(step: str, *arguments: str) -> str:
        began = time.monotonic()
        command = [sys.executable, "-m", "enginehouse.cli.main", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        times[step] = time.monotonic() - began
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("new", "engines", "new", "demo/sentiment")
    assert "failed" not in run("test", "engines", "test", "sentiment")
    run("deploy", "engines", "deploy", "sentiment")
    job: Any = json.loads(
        run("answer", "submit", "sentiment", "--input", "@sentiment/example.json", "--wait", "--json")
    )
    print("; ".join(f"{step} {seconds:.1f} s" for step, seconds in times.items()), f"; all {sum(times.values()):.1f} s")
    assert job["output"] == {"words": 4, "longest": "engines"}
    assert sum(times.values()) < 120
    assert {name: process["pid"] for name, process in stack.processes().items() if name in core} == core


def test_without_its_extra_the_fuzzer_says_how_to_install_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "schemathesis", None)
    folder = _write(tmp_path / "engine", Mistake([], "", run=_OURS, files=_SOUND))
    status, said, _ = _invoke(home, "engines", "test", str(folder), "--fuzz")
    assert (status, "needs the extra 'fuzz'" in said, "CHECKOUT[fuzz]" in said) == (1, True, True), said
