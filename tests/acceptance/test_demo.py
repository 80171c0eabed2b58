"""The demo as a newcomer runs it: jobs of three tenants, refusals, the documents' output, and nothing left behind at any end."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from tests.support.documents import ROOT, Document
from tests.support.stack import until

_SECONDS = 300
"""The first run of all makes engines' environments."""
pytestmark = pytest.mark.timeout(_SECONDS)

_DEMO = ["-m", "enginehouse.cli.main", "demo", "--home"]


def _start(home: Path, *python: str) -> "subprocess.Popen[str]":
    # As narrow as a terminal usually is.
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.Popen(
        [sys.executable, *python, *_DEMO, str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def _left(home: Path) -> list[str]:
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if str(home) in command]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def printed(home: Path) -> str:
    with _start(home) as running:
        out, err = running.communicate(timeout=_SECONDS)
    assert running.returncode == 0, out + err
    return out


def _rows(printed: str) -> dict[str, list[list[str]]]:
    """The table's cells by engine; a cell's lines are joined."""
    rows: dict[str, list[list[str]]] = {}
    cells: list[str] = []
    lines = printed.split("Refused:")[0].splitlines()
    (head,) = (line for line in lines if line.startswith("engine "))
    # Names of columns of numbers stand at the right: these begin where the column before ends.
    starts = [0, head.index("input"), head.index("result"), head.index("result") + 20, head.index("queue") + 5]
    for line in lines:
        parts = [line[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if "--" in parts[0]:
            cells = [""] * 5
            rows.setdefault(parts[0].strip(), []).append(cells)
        if cells:
            cells[:] = [f"{cell} {part.strip()}".strip() for cell, part in zip(cells, parts, strict=True)]
    return rows


def test_jobs_of_three_tenants_are_shown_in_eighty_columns(printed: str) -> None:
    rows = _rows(printed)
    assert {engine: len(jobs) for engine, jobs in rows.items()} == {
        "shared--standard": 4,
        "acme--ocr": 3,
        "globex--embedding": 1,
    }
    assert max(map(len, printed.split("Refused:")[0].splitlines())) <= 80
    for job in [job for jobs in rows.values() for job in jobs]:
        assert all(re.fullmatch(r"\d+(\.\d)? m?s", time) for time in job[3:]), job


def test_the_models_own_answers_are_shown(printed: str) -> None:
    rows = _rows(printed)
    assert [job[2].split(",")[0] for job in rows["shared--standard"]] == ["positive", "negative", "neutral", "positive"]
    assert all("Invoice 2026-1122 / Acme Paper Works" in job[2] for job in rows["acme--ocr"])
    alike, *unlike = [float(cosine) for cosine in re.findall(r"[+-]\d\.\d\d", rows["globex--embedding"][0][2])]
    assert alike > 3 * max(unlike)


def test_inputs_come_in_every_way(printed: str) -> None:
    told = [job[1] for jobs in _rows(printed).values() for job in jobs]
    for way in ("by reference", "event over HTTP", "event on requests.acme, answered on finished.acme"):
        assert len([cell for cell in told if way in cell]) == 1, told


def test_what_is_refused_is_shown(printed: str) -> None:
    refused = printed.partition("Refused:")[2]
    codes = re.findall(r"^  (\d+ [A-Z_]+): ", refused, re.MULTILINE)
    not_there = "404 ENGINE_DOES_NOT_EXIST"
    assert codes == [not_there, "422 INVALID_INPUT", not_there, "404 JOB_DOES_NOT_EXIST", "401 UNAUTHENTICATED"]


def test_no_key_is_printed_and_no_process_is_left(printed: str, home: Path) -> None:
    assert "eh_" not in printed
    assert _left(home) == []
    (keys,) = home.glob("run/demo-keys.json")
    assert keys.stat().st_mode & 0o777 == 0o600


def _document(name: str) -> set[str]:
    """The words of the demo's output that a document shows."""
    blocks = Document.read(ROOT / name).blocks
    return _words("\n".join(block.text for block in blocks if block.language == "text" and "Refused:" in block.text))


def _words(text: str) -> set[str]:
    # What was measured differs from run to run, and so does a job's id.
    lines = [line for line in text.splitlines() if not line.startswith("✓")]
    return set(re.sub(r"\d+\.\d m?s|[0-9a-f]{8}-(…|[0-9a-f-]{27})", "", "\n".join(lines)).split())


@pytest.mark.parametrize("name", ["README.md", "docs/demo.md"])
def test_it_prints_what_a_document_shows(printed: str, name: str) -> None:
    assert _document(name)
    assert _document(name) - _words(printed) == set()


def test_in_a_second_run_an_engine_that_does_not_come_up_is_named_and_the_others_are_shown(
    printed: str, home: Path
) -> None:
    (copy,) = (home / "sources" / "acme--ocr").iterdir()
    (copy / "engine.py").write_text("raise SystemExit('the model is not there')\n")
    with _start(home) as running:
        out, err = running.communicate(timeout=_SECONDS)
    assert running.returncode == 1
    assert {engine: len(jobs) for engine, jobs in _rows(out).items()} == {"shared--standard": 4, "globex--embedding": 1}
    assert out.count("Refused:") == 5
    missing = " ".join(out.partition("Missing: acme--ocr")[2].split())
    assert "It did not start" in missing
    assert "the model is not there" in missing
    assert "1 of 3 engines did not answer as they should: acme--ocr." in " ".join(err.split())
    assert "2 of 3 engines are up" in err
    assert "Traceback" not in err
    assert _left(home) == []


@pytest.mark.parametrize("module", ["typer", "pydantic", "enginehouse.local.stack"])
def test_ctrl_c_while_modules_are_imported_ends_it_without_a_word(module: str, tmp_path: Path) -> None:
    # -v tells of each import as it is done.
    with _start(tmp_path, "-v") as running:
        assert running.stderr
        assert any(line.startswith(f"import '{module}'") for line in running.stderr)
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read()
    assert "Traceback" not in rest
    assert running.returncode != 0
    assert _left(tmp_path) == []


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with _start(tmp_path) as running:
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(running.communicate(timeout=_SECONDS)))
        reader.start()
        until(lambda: (tmp_path / "run/redis.conf").exists() or running.poll() is not None, "it has begun", 60)
        running.send_signal(signal.SIGINT)
        reader.join(60)
    assert running.returncode == 130, said
    assert "Traceback" not in "".join(said)
    assert _left(tmp_path) == []
