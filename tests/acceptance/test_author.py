"""An author makes an engine, tests it alone, deploys it and gets an answer; and each mistake of a newcomer shows its cause."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.commands import run_command
from tests.support.documents import ROOT
from tests.support.newcomers import MISTAKES, OURS, RESULT, SOUND, Mistake, answered, served, write
from tests.support.stack import StackHandle, until

from enginehouse.authoring import fuzz
from enginehouse.authoring.answers import Described
from enginehouse.authoring.findings import Finding
from enginehouse.cli.author import _lines
from enginehouse.contracts.engine import EngineCard, EngineSpec
from enginehouse.local.daprd import cache_folder
from enginehouse.local.home import Home
from enginehouse.registry.tenants import add_key
from enginehouse.yaml_files import read_yaml

pytestmark = pytest.mark.timeout(300)  # The first run downloads what engines' environments need.


def _invoke(home: Path | None, *arguments: str) -> tuple[int, str, str]:
    """Run a command; return its exit status and what it printed, with runs of space as one."""
    result = run_command(home, *arguments)
    return result.returncode, " ".join(result.stdout.split()), " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Home.at(tmp_path_factory.mktemp("home"))
    add_key(made.tenants, "acme")
    return made.path


@pytest.mark.parametrize("name", MISTAKES)
def test_a_newcomers_mistake_shows_its_cause(name: str, home: Path, tmp_path: Path) -> None:
    mistake = MISTAKES[name]
    folder = write(tmp_path / "engine", mistake)
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")
@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            served("self.answer(200, {", "open('count.txt', 'w') or self.answer(200, {"),
            "Its folder is read-only, as after a deployment: let it write below the folder in its variable HOME",
        ),
        ({"serve.py": "open('MODEL')"}, "It does not see MODEL, and would not see it after a deployment"),
        ({"serve.py": "open(__import__('os').path.expanduser('~/model.bin'))"}, "It does not see MODEL, and would not"),
    ],
    ids=["writes beside itself", "reads a private folder", "reads its author's home"],
)
def test_what_up_would_refuse_is_refused_and_its_cause_is_named(
    files: dict[str, str], said: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.bin"
    model.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder().parent))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    files = {name: text.replace("MODEL", str(model)) for name, text in files.items()}
    status, output, _ = _invoke(home, "engines", "test", str(write(tmp_path / "engine", Mistake([], "", files=files))))
    assert status == 1, output
    if "ok process It runs as a user of its own" not in output:
        pytest.skip(output)
    assert said.replace("MODEL", str(model)) in output


def test_all_is_said_as_json_as_well(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "engine", MISTAKES["bare result"])
    result = run_command(home, "engines", "test", str(folder), "--json")
    document = json.loads(result.stdout)
    assert (result.returncode, document["id"], document["ok"]) == (1, "acme--sentiment", False)
    verdicts = {check["check"]: check["verdict"] for check in document["checks"]}
    assert (verdicts["files"], verdicts["health"], verdicts["example"]) == ("ok", "ok", "failed")


def test_nothing_is_wrong_with_a_sound_engine(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "engine", Mistake([], "", run=OURS, files=SOUND))
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}
    status, said, _ = _invoke(home, "engines", "test", str(folder))
    assert (status, "failed" in said) == (0, False), said
    for check in (
        "files",
        "environment",
        "process" if os.geteuid() == 0 else "start",
        "start",
        "health",
        "schema",
        "example",
        "time",
        "bad input",
        "memory",
        "stop",
    ):
        assert f"ok {check}" in said
    assert {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))} == before


def test_an_engine_that_takes_batches_is_given_one(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(ROOT / "tests" / "engines" / "batches", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "example.json").write_text('{"value": 1}')
    status, said, _ = _invoke(None, "engines", "test", str(folder))
    assert (status, "ok batch Two jobs in one call" in said) == (0, True), said
    code = folder / "engine.py"
    code.write_text(code.read_text().replace("for item in data]", "for item in data][:1]"))
    status, said, _ = _invoke(None, "engines", "test", str(folder))
    assert (status, "predict_batch answered 1 results to 2 inputs" in said) == (1, True), said


def test_an_engine_in_another_language_is_tested_alike(tmp_path: Path) -> None:
    folder = ROOT / "tests" / "engines" / "foreign"
    status, said, _ = _invoke(None, "engines", "test", str(folder))
    assert status == 0, said
    assert "note schema It has no /openapi.json" in said
    assert "ok bad input" in said
    assert "ok stop" in said


@pytest.mark.parametrize(
    ("predict", "said", "shrink_seconds"),
    [
        (
            "Count(words=1 // (0 if len(data.text) > 3 else 1))",
            """ZeroDivisionError: integer division or modulo by zero. The smallest such input: {"text": "0000"}""",
            10,
        ),
        # Each input that it ends of costs the start of another one.
        (
            "__import__('os')._exit(4) if len(data.text) > 1 else Count(words=1)",
            "ends the engine, with exit status 4",
            2,
        ),
    ],
    ids=["raises", "exits"],
)
def test_the_fuzzer_finds_a_small_input_that_breaks_an_engine(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predict: str, said: str, shrink_seconds: float
) -> None:
    monkeypatch.setattr(fuzz, "_SHRINK_SECONDS", shrink_seconds)
    folder = write(
        tmp_path / "engine", Mistake([], "", run=OURS, files={**answered(predict), "example.json": '{"text": "a"}'})
    )
    began = time.monotonic()
    status, output, _ = _invoke(home, "engines", "test", str(folder), "--fuzz")
    print(f"{time.monotonic() - began:.1f} s\n{output}")
    assert status == 1
    assert "failed fuzz" in output
    assert said in output


async def test_a_search_whose_time_is_over_prints_nothing_of_its_librarys(capfd: pytest.CaptureFixture[str]) -> None:
    predict = {"post": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}}
    card = EngineCard(engine="demo--one", slot="a", version="v1")
    described = Described({"paths": {"/predict": predict}}, card, None, None)
    search = fuzz._Search(None, described, asyncio.get_running_loop())  # type: ignore[arg-type]  # Nobody is asked.
    search.stop.set()
    await asyncio.to_thread(search.run)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.mark.parametrize(("size", "status"), [(200_000, 0), (9_000_000, 1)])
def test_an_answer_may_be_as_large_as_a_runner_reads(home: Path, tmp_path: Path, size: int, status: int) -> None:
    files = {**served(RESULT, f'{{"result": "x" * {size}}}'), "example.json": '{"text": "a"}'}
    folder = write(tmp_path / "engine", Mistake([], "", files=files))
    found, said, _ = _invoke(home, "engines", "test", str(folder))
    assert (found, "failed example" in said, "a result may have at most 8388608 bytes" in said) == (
        status,
        status == 1,
        status == 1,
    ), said


@pytest.mark.parametrize("when", ["it starts", "it is fuzzed"])
def test_an_interrupted_test_leaves_nothing_behind(tmp_path: Path, when: str) -> None:
    (scratch := tmp_path / "tmp").mkdir()
    sleeps = Mistake([], "", files={"serve.py": "__import__('time').sleep(1000)"})
    dies = answered("__import__('os')._exit(4) if data.text else Count(words=1)")
    fuzzed = Mistake([], "", run=OURS, files={**dies, "example.json": '{"text": ""}'})
    folder = write(tmp_path / "engine", sleeps if when == "it starts" else fuzzed)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGINEHOUSE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "enginehouse.cli.main", "engines", "test", str(folder), "--fuzz"],
        cwd=tmp_path,
        env={**kept, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # An engine that dies of inputs is started again.
    starts, started = 1 if when == "it starts" else 2, set[int]()

    def has_started() -> bool:
        started.update(_alive(scratch))
        return len(started) >= starts

    until(lambda: has_started() or process.poll() is not None, "the engine was started", 100)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    until(lambda: not _alive(scratch), "the engine is gone")
    assert [path.name for path in scratch.iterdir() if path.name.startswith("enginehouse-test")] == []


def _home(process: psutil.Process) -> str:
    try:
        return process.environ().get("HOME", "")
    except psutil.Error:
        return ""


def _alive(scratch: Path) -> set[int]:
    """Return the engines whose own home is below `scratch`."""
    return {process.pid for process in psutil.process_iter() if str(scratch) in _home(process)}


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


def test_from_nothing_to_the_first_answer(shared_stack: StackHandle, tmp_path: Path) -> None:
    stack = shared_stack
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


def test_no_line_is_wider_than_the_terminal_and_none_controls_it() -> None:
    said = f"/a/path{'/of/many/folders' * 3} is {'said at length, ' * 20}"
    finding = Finding("example", "failed", said, f"{'x' * 300}\n\x1b]0;mine\x07 {'word ' * 50}")
    lines = [line.plain for line in _lines(finding, 80)]
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert "".join(lines).replace(" ", "").count("x") >= 300
    assert [line[:23].strip() for line in lines[:2]] == ["failed  example", ""]


def test_without_its_extra_the_fuzzer_says_how_to_install_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "schemathesis", None)
    folder = write(tmp_path / "engine", Mistake([], "", run=OURS, files=SOUND))
    status, said, _ = _invoke(home, "engines", "test", str(folder), "--fuzz")
    assert (status, "needs the extra 'fuzz'" in said, "CHECKOUT[fuzz]" in said) == (1, True, True), said
