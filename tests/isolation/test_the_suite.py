"""The suite of break-ins can fail: an attempt that succeeds, and one that is skipped for no good reason, fail the run."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import break_ins
from tests.support.break_ins import ROOT

_PROGRAM = """
import pytest
from tests.support.break_ins import attempt

@attempt("stopped", layer="a wall")
def test_stopped(note): note("held")

@attempt("succeeded", layer="a fence")
@pytest.mark.skipif({skips}, reason="as this test says")
def test_succeeded(): assert {holds}

@attempt("impossible here", layer="a moat", need=["docker", "root"])
def test_impossible_here(): pytest.skip("no moat")
"""


@pytest.mark.can_fail
@pytest.mark.parametrize(
    ("holds", "skips", "verdict"), [(True, False, ""), (False, False, "NOT STOPPED"), (True, True, "NOT TRIED")]
)
def test_it_fails_if_an_attempt_succeeds_or_is_skipped(tmp_path: Path, holds: bool, skips: bool, verdict: str) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.support import break_ins\nbreak_ins.has = lambda need: False\n"
        "pytest_plugins = ['tests.support.break_ins']\n"
    )
    (tmp_path / "test_it.py").write_text(_PROGRAM.format(holds=holds, skips=skips))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "-c", "/dev/null", "test_it.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode != 0) == bool(verdict), done.stdout + done.stderr
    rows = done.stdout
    assert "a wall" in rows
    assert "held" in rows
    assert "no docker and no root here" in " ".join(rows.split())
    if verdict:
        assert f"{verdict}: succeeded (a fence)" in rows, rows


def test_each_module_of_this_folder_makes_attempts() -> None:
    made = {one.path for one in break_ins.listed()}
    proofs = {Path(__file__), Path(__file__).with_name("test_weakened.py")}
    assert {*Path(__file__).parent.rglob("test_*.py")} - made == proofs


def test_the_list_has_each_attempt_once_with_its_layer() -> None:
    found = [one.attempt for one in break_ins.listed()]
    assert len(found) == len({one.name for one in found})
    assert all(one.layer for one in found)
