"""`engines logs` prints the last lines of an engine's processes, and nothing of theirs controls the terminal."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.waiting import until

from enginehouse.cli.app import app
from enginehouse.cli.logs import _tail
from enginehouse.contracts.engine import EngineSpec
from enginehouse.local.home import Home
from enginehouse.registry.bundle import render_engine, render_shared, write_bundle


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    (home.engines / "acme--one").mkdir()
    (home.logs / "acme--one--a.engine-0.log").write_text("".join(f"line {n}\n" for n in range(100)))
    (home.logs / "acme--one--b.engine-0.log").write_text("\x1b[2Jclears\nunfinished")
    (home.logs / "acme--one--a.runner.log").write_text("of the runner\n")
    (home.logs / "acme--one-more--a.engine-0.log").write_text("of another engine\n")
    return home


def printed(home: Home, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        app(["engines", "logs", "acme--one", "--home", str(home.path), *arguments])
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_last_lines_of_each_process_are_printed_harmlessly(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(home, capsys, "--lines", "2")
    assert "line 98" in said
    assert "line 97" not in said
    assert "clears" in said
    assert "\x1b" not in said
    assert "of the runner" not in said
    assert "of another engine" not in said
    assert "of the runner" in printed(home, capsys, "--runner")
    assert not printed(home, capsys, "-n", "0")


@pytest.mark.parametrize(
    ("text", "lines", "start"), [("", 5, 0), ("a\nb\nc", 1, 2), ("a\nb\n", 5, 0), ("a\nb\n", 0, 4), ("a", 3, 0)]
)
def test_a_tail_begins_at_a_line(tmp_path: Path, text: str, lines: int, start: int) -> None:
    (tmp_path / "log").write_text(text)
    assert _tail(tmp_path / "log", lines) == start


def test_the_logs_of_a_version_on_trial_are_those_of_its_slot(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*options: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            app(["engines", "logs", "acme--one@trial", *options, "--home", str(home.path)])
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out + shown.err

    bundle = home.engines / "acme--one"
    spec = EngineSpec(tenant="acme", name="one")
    write_bundle(bundle, render_engine(spec, ".", active="a"))
    assert said()[0] == 1
    assert "No version of acme--one is on trial" in said()[1]
    write_bundle(bundle, {**render_engine(spec, "."), **render_shared(spec.id, active="a", trial="b")})
    status, shown = said("--runner")
    assert status == 0
    assert "clears" in shown
    assert "line 99" not in shown
    assert "of the runner" not in shown, "that is the other slot's"


def test_new_lines_follow_also_those_of_a_new_process(home: Home, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "enginehouse.cli.main",
        "engines",
        "logs",
        "acme--one",
        "-f",
        "--home",
        str(home.path),
    ]
    with (tmp_path / "said").open("wb") as said:
        following = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        until(lambda: "line 99" in (tmp_path / "said").read_text(), "it prints what is there")
        with (home.logs / "acme--one--a.engine-0.log").open("a") as log:
            log.write("a new line\n")
        (home.logs / "acme--one--a.engine-1.log").write_text("of a second replica\n")
        until(lambda: "of a second replica" in (tmp_path / "said").read_text(), "it goes on")
        assert "a new line" in (tmp_path / "said").read_text()
    finally:
        following.terminate()
        following.wait(10)
