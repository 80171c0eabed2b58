"""A tenant's own systems beside a deployment: the command that prepares them, and the programs of docs/upstream.md."""

import json
import os
import queue
import shlex
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.support.commands import run_command
from tests.support.dapr import API_TOKEN, APP_TOKEN, PORTS, Started, http_ok, spawn, wait_until
from tests.support.documents import ROOT, Document
from tests.support.stack import StackHandle, running_stack

from enginehouse.broker.redis import answers
from enginehouse.local.home import Home
from enginehouse.local.tenant_systems import redis_of
from enginehouse.registry.tenants import add_key

_ENGINES = Path(__file__).resolve().parents[1] / "engines"
_TENANT = "tests"
_DOCUMENT = Document.read(ROOT / "docs" / "upstream.md")
pytestmark = pytest.mark.timeout(600)  # The first run builds a program with Dapr's SDK.


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    with running_stack(tmp_path_factory.mktemp("home"), [_ENGINES / "echo"]) as handle:
        yield handle


def command(stack: StackHandle, *arguments: str) -> dict[str, Any]:
    done = run_command(stack.home.path, "tenant", "system", _TENANT, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


@dataclass
class Sidecar:
    """The sidecar of a system, started by the line that the command prints, and what its app is told."""

    app_id: str
    line: list[str]
    app_port: int
    started: Started = field(init=False)

    def start(self, log: Path, api_token: str = API_TOKEN) -> None:
        """Start it; it waits until its app listens."""
        environment = {name: os.environ[name] for name in ("PATH", "HOME")}
        tokens = {"DAPR_API_TOKEN": api_token, "APP_API_TOKEN": APP_TOKEN}
        self.started = spawn(self.app_id, self.line, log, environment | tokens)

    def port(self, kind: str) -> int:
        """Return one of its ports."""
        return int(self.line[self.line.index(f"--dapr-{kind}-port") + 1])

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of its app."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENGINEHOUSE_", "DAPR_"))}
        return kept | {
            "TENANT": _TENANT,
            "ENGINE": "echo",
            "APP_PORT": str(self.app_port),
            "APP_ID": self.app_id,
            "DAPR_HTTP_PORT": str(self.port("http")),
            "DAPR_GRPC_PORT": str(self.port("grpc")),
            "DAPR_API_TOKEN": API_TOKEN,
            "APP_API_TOKEN": APP_TOKEN,
            **more,
        }


def sidecar(stack: StackHandle, folder: Path, name: str | None = None) -> Sidecar:
    """Prepare a system, with other ports than those at which SDKs look: they may be taken on this machine."""
    app_port = PORTS.take()
    named = ["--name", name] if name else []
    made = command(stack, "--into", str(folder / "system"), "--app-port", str(app_port), *named)
    line = shlex.split(made["daprd"])
    for number, word in enumerate(line):
        if word.endswith("-port") and word not in ("--app-port",):
            line[number + 1] = str(PORTS.take())
    return Sidecar(made["app_id"], line, app_port)


@contextmanager
def hearing(
    stack: StackHandle, folder: Path, name: str | None = None, api_token: str = API_TOKEN
) -> Iterator[tuple[Sidecar, "queue.Queue[Any]"]]:
    """Run a system that is as the document says of any language: it says what it subscribes, and takes events."""
    (subscriptions,) = [block.text for block in _DOCUMENT.blocks if block.text.startswith("[{")]
    heard: queue.Queue[Any] = queue.Queue()
    beside = sidecar(stack, folder, name)

    class App(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200 if self.path == "/dapr/subscribe" else 404, subscriptions.replace("acme", _TENANT))

        def do_POST(self) -> None:
            heard.put(json.loads(self.rfile.read(int(self.headers["content-length"])))["data"])
            self._answer(200, "")

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Write no access log."""

    with ThreadingHTTPServer(("127.0.0.1", beside.app_port), App) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        beside.start(folder / "daprd.log", api_token)
        try:
            wait_until(beside.started, lambda: http_ok(f"http://127.0.0.1:{beside.port('http')}/v1.0/healthz"))
            yield beside, heard
        finally:
            beside.started.stop()
            server.shutdown()


def program(language: str, first: str = "") -> str:
    (text,) = [block.text for block in _DOCUMENT.blocks if block.language == language and block.text.startswith(first)]
    return text


def until_heard(heard: "queue.Queue[Any]", question: str) -> dict[str, Any]:
    while True:
        said: dict[str, Any] = heard.get(timeout=30)
        if (said.get("event") or {}).get("id") == question:
            return said


def ask(beside: Sidecar, folder: Path, script: str) -> str:
    """Run one of the document's shell programs, and return the id of its question."""
    question = str(uuid.uuid4())
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env=beside.environment(QUESTION=question),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return question


def test_what_a_shell_asks_every_system_hears_and_none_takes_from_another(stack: StackHandle, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        hearing(stack, tmp_path / "a") as (one, heard_by_one),
        hearing(stack, tmp_path / "b", "billing") as (other, heard_by_other),
    ):
        assert (one.app_id, other.app_id) == ("tenant-tests", "tenant-tests--billing")
        for beside in (one, other, one, other):
            question = ask(beside, tmp_path, program("shell", "curl"))
            for heard in (heard_by_one, heard_by_other):
                said = until_heard(heard, question)
                assert (said["status"], said["output"], said["event"]["source"]) == (
                    "succeeded",
                    {"order": 1},
                    "/orders/sh",
                )
        # Dapr used no command and no key that the tenant's user may not.
        broker = redis_of(stack.home)
        with redis.Redis(port=broker.port, password=broker.password) as connection:
            assert connection.execute_command("ACL", "LOG") == []


def test_what_daprs_cli_asks_is_answered(stack: StackHandle, tmp_path: Path) -> None:
    if not shutil.which("dapr"):
        pytest.skip("Dapr's CLI is not on this machine")
    with hearing(stack, tmp_path, "cli", api_token="") as (beside, heard):
        question = ask(beside, tmp_path, program("shell", "dapr"))
        assert until_heard(heard, question)["output"] == {"order": 1}


def run_program(stack: StackHandle, folder: Path, line: list[str], name: str) -> str:
    """Run a program beside its sidecar, as `dapr run` would, and return what it prints."""
    beside = sidecar(stack, folder, name)
    beside.start(folder / "daprd.log")
    try:
        done = subprocess.run(
            line, cwd=folder, env=beside.environment(), capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        beside.started.stop()
    assert done.returncode == 0, done.stdout + done.stderr + beside.started.logs()[-2000:]
    return done.stdout


def packages(line: list[str], folder: Path) -> None:
    """Get packages for a program with the usual client, or skip the test if it cannot."""
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    if done.returncode:
        pytest.skip(f"'{shlex.join(line)}' could not get packages: {done.stderr[-500:]}")


def test_the_program_in_go_asks_and_hears_its_answer(stack: StackHandle, tmp_path: Path) -> None:
    if not shutil.which("go"):
        pytest.skip("Go is not on this machine")
    (tmp_path / "main.go").write_text(program("go"))
    packages(["go", "mod", "init", "orders"], tmp_path)
    packages(["go", "get", "github.com/dapr/go-sdk@v1.11.0"], tmp_path)
    packages(["go", "mod", "tidy"], tmp_path)
    built = subprocess.run(["go", "build", "-o", "orders", "."], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    said = run_program(stack, tmp_path, [str(tmp_path / "orders")], "orders-go")
    assert said.splitlines()[-1] == "succeeded   map[order:1]"


def test_the_program_in_javascript_asks_and_hears_its_answer(stack: StackHandle, tmp_path: Path) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node is not on this machine")
    (tmp_path / "orders.mjs").write_text(program("js"))
    (tmp_path / "package.json").write_text("{}")
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    packages([*install, "@dapr/dapr@3.18.0"], tmp_path)
    said = run_program(stack, tmp_path, ["node", "orders.mjs"], "orders-js")
    assert said.splitlines()[-1] == 'succeeded   {"order":1}'


def test_the_tenants_user_reaches_its_two_streams_only_and_survives_a_restart_of_redis(
    stack: StackHandle, tmp_path: Path
) -> None:
    command(stack, "--into", str(tmp_path / "system"))
    assert (tmp_path / "system").stat().st_mode & 0o777 == 0o700
    secrets = tmp_path / "system" / "secrets.json"
    assert secrets.stat().st_mode & 0o777 == 0o600
    password = json.loads(secrets.read_text())["redisPassword"]
    for path in (tmp_path / "system" / "resources").iterdir():
        assert password not in path.read_text()
    old = stack.kill("redis")
    stack.until_restarted("redis", old)
    broker = redis_of(stack.home)
    wait_until(stack.up, lambda: answers(broker))
    with redis.Redis(port=broker.port, username=f"tenant-{_TENANT}", password=password) as connection:
        assert connection.xadd(f"requests.{_TENANT}", {"data": "x"})
        for forbidden in (
            ("XADD", "engine.tests--echo", "*", "data", "x"),
            ("XADD", "requests.other", "*", "data", "x"),
            ("XRANGE", "finished.other", "-", "+"),
            ("GET", "results"),
            ("KEYS", "*"),
            ("ACL", "LIST"),
            ("CONFIG", "GET", "*"),
            ("DEL", f"finished.{_TENANT}"),
            ("XGROUP", "DESTROY", f"finished.{_TENANT}", "tenant-tests"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                connection.execute_command(*forbidden)


def test_without_a_deployment_or_a_tenant_nothing_is_written(
    stack: StackHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stopped = Home.at(tmp_path / "home")
    add_key(stopped.tenants, _TENANT)
    for home, tenant, said in ((stopped, _TENANT, "Nothing is running"), (stack.home, "nobodys", "no tenant")):
        before = sorted(home.run.iterdir())
        done = run_command(home.path, "tenant", "system", tenant)
        assert done.returncode == 1
        assert said in " ".join(done.stderr.split())
        assert [path for path in sorted(home.run.iterdir()) if path not in before and "lock" not in path.name] == []
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
