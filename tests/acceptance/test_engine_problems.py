"""Why an engine does not work is told alike by every command and by the API, and a mended engine is deployed as such."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import run_command
from tests.support.stack import StackHandle, running_stack, until

_PLAIN = "run: {command: [python, serve.py]}\n"
_OURS = "run: {command: [python, -m, enginehouse.engine, engine]}\n"
_CODE = """
from enginehouse.engine import Engine

class Mine(Engine):
    def predict(self, data: int) -> int:
        return len(bytearray(data))
"""
_NOT_FOUND = """
import os
from http.server import HTTPServer, BaseHTTPRequestHandler
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), BaseHTTPRequestHandler).serve_forever()
"""
_SOUND = """
import os
from http.server import HTTPServer, BaseHTTPRequestHandler

class Mine(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.do_GET()
        self.wfile.write(b'{"result": 1}')

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Mine).serve_forever()
"""
_BARE = _SOUND.replace('{"result": 1}', '{"a": 1}')
_MEMORY = "resources: {memory: 256Mi}\n"
# What keeps ending is started again and again, so it is as small as it can be.
_ENGINES = {
    "typo": (_PLAIN, {"serve.py": _SOUND.replace("(self):", "(self:")}),
    "hungry": (_PLAIN + _MEMORY, {"serve.py": "bytearray(700_000_000)"}),
    "deaf": ("run: {command: [sleep, 1000]}\n", {}),
    "pathless": (_PLAIN, {"serve.py": _NOT_FOUND}),
    "unmade": (
        "run: {command: [python, x.py], requirements: requirements.txt}\n",
        {"requirements.txt": "./torn-1.0-py3-none-any.whl\n", "torn-1.0-py3-none-any.whl": "not a wheel"},
    ),
}
_SAYS = {
    "typo": ["keeps ending, with exit status 1", "SyntaxError"],
    "hungry": ["keeps ending, with exit status 1", "more memory than the 256 MiB", "MemoryError"],
    "deaf": ["After 10 s, nothing listens on 127.0.0.1:", "the port in its variable PORT"],
    "pathless": ["After 10 s, GET /healthz at 127.0.0.1:", "answers 501"],
    "unmade": ["The requirements of demo--unmade cannot be installed", "torn-1.0"],
}


def _write(folder: Path, name: str) -> Path:
    run, files = _ENGINES[name]
    source = folder / name
    source.mkdir()
    for file, text in {"engine.yaml": f"tenant: demo\nname: {name}\n{run}", **files}.items():
        (source / file).write_text(text)
    return source


def _run(stack: StackHandle, *arguments: str) -> tuple[int, str]:
    """Run a command; return its exit code and everything that it printed, with runs of space as one."""
    result = run_command(stack.home.path, *arguments)
    return result.returncode, _squeezed(result.stdout + result.stderr)


def _squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name in _ENGINES:
        _write(folder, name)
    return folder


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Iterator[StackHandle]:
    with running_stack(tmp_path_factory.mktemp("home")) as handle:
        for name in _ENGINES:  # They fail side by side.
            code, said = _run(handle, "engines", "deploy", str(sources / name), "--no-wait")
            assert (code, "is deployed" in said) == (0, True), said
        yield handle


def _shown(stack: StackHandle, name: str) -> dict[str, Any]:
    answer = stack.call("GET", f"/v1/engines/{name}")
    return dict(answer.body) if answer.status == 200 else {}


@pytest.mark.parametrize("name", sorted(_ENGINES))
def test_the_reason_is_the_same_wherever_it_is_told(stack: StackHandle, sources: Path, name: str) -> None:
    says = _SAYS[name]
    until(lambda: all(part in (_shown(stack, name).get("reason") or "") for part in says), f"{says} is told", 60)
    shown = _shown(stack, name)
    assert (shown["state"], shown["health"]) == ("active", "unhealthy")
    # What follows quotes a log with process ids, which another death changes.
    reason = _squeezed(shown["reason"].partition("Its last lines:")[0]).rstrip(".")

    listed = {engine["id"]: engine for engine in stack.call("GET", "/v1/engines?limit=1000").body["engines"]}
    assert reason in _squeezed(listed[f"demo--{name}"]["reason"])
    problem = until(lambda: stack.state()["engines"][f"demo--{name}"]["problem"], "the supervisor knows it")
    assert reason in _squeezed(problem)
    for command, expected in {
        ("engines",): 0,
        ("engines", "show", name): 0,
        ("status",): 1,
        ("engines", "deploy", str(sources / name), "--timeout", "1"): 1,
        ("submit", name, "--input", "1", "--wait", "--timeout", "1"): 1,
    }.items():
        code, said = _run(stack, *command)
        assert code == expected, (command, said)
        assert all(part in said for part in [reason, *says]), (command, said)
        assert "active" not in said, command
    assert "is unchanged" in _run(stack, "engines", "deploy", str(sources / name), "--no-wait")[1]


def test_a_first_version_that_does_not_answer_its_own_example_is_no_success(stack: StackHandle, tmp_path: Path) -> None:
    for file, text in {
        "engine.yaml": f"tenant: demo\nname: bare\n{_PLAIN}",
        "serve.py": _BARE,
        "example.json": "1",
    }.items():
        (tmp_path / file).write_text(text)
    code, said = _run(stack, "engines", "deploy", str(tmp_path))
    wrong = "v1 does not answer its own example.json: HTTP 200: {"
    assert (code, wrong in said, "stays deployed: mend it" in said) == (1, True, True), said
    until(lambda: wrong in (_shown(stack, "bare").get("reason") or ""), "the gateway knows it", 30)
    assert wrong in _run(stack, "engines", "show", "bare")[1]

    (tmp_path / "serve.py").write_text(_SOUND)
    code, said = _run(stack, "engines", "deploy", str(tmp_path))
    assert (code, "demo--bare answers" in said) == (0, True), said
    assert stack.submit("bare", 3)["output"] == 1


def test_a_deploy_waits_for_the_verdict_and_its_exit_code_is_the_verdict(stack: StackHandle, sources: Path) -> None:
    engine = sources / "typo" / "serve.py"
    assert _run(stack, "engines", "deploy", str(sources / "typo"))[0] == 1
    engine.write_text(_SOUND)
    code, said = _run(stack, "engines", "deploy", str(sources / "typo"))
    assert (code, "demo--typo answers" in said, "SyntaxError" in said) == (0, True, False), said
    assert stack.submit("typo", 3)["output"] == 1
    code, said = _run(stack, "engines", "deploy", str(sources / "typo"))
    assert (code, "is unchanged" in said, "answers" in said) == (0, True, True), said

    engine.write_text("raise RuntimeError('no model')")
    code, said = _run(stack, "engines", "deploy", str(sources / "typo"))
    assert (code, "demo--typo does not work: " in said) == (1, True), said


def test_a_job_that_wants_too_much_memory_fails_and_the_engine_lives_on(stack: StackHandle, sources: Path) -> None:
    (sources / "hungry" / "engine.yaml").write_text(f"tenant: demo\nname: hungry\n{_OURS}{_MEMORY}")
    (sources / "hungry" / "engine.py").write_text(_CODE)
    assert _run(stack, "engines", "deploy", str(sources / "hungry"))[0] == 0
    job = stack.submit("hungry", 700_000_000, retry={"max_attempts": 1})
    assert job["status"] == "failed"
    assert "MemoryError: there is no memory left for it (the engine may have 256 MiB" in job["error"]["message"]
    assert stack.submit("hungry", 100_000_000)["output"] == 100_000_000


def test_an_interrupted_wait_leaves_the_engine_deployed(stack: StackHandle, sources: Path) -> None:
    command = [sys.executable, "-m", "enginehouse.cli.main", "engines", "deploy", str(sources / "deaf")]
    process = subprocess.Popen(
        [*command, "--home", str(stack.home.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert "is unchanged" in process.stdout.readline()
    until(lambda: process.poll() is not None or _waits(process.pid), "it waits")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "demo--deaf stays deployed" in err) == (130, True), err


def _waits(pid: int) -> bool:
    """Whether the process handles SIGINT itself: it has begun to wait."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))
