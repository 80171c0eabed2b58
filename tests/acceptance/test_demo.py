"""The demo, as a newcomer runs it: real jobs, both refusals, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import psutil


def _demo(home: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "enginehouse.cli.main", "demo", "--home", str(home)]
    # As wide as a terminal that shows a row in a line.
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment)


def test_the_demo_shows_results_and_refusals_twice_and_leaves_no_process(tmp_path: Path) -> None:
    for _ in range(2):
        ran = _demo(tmp_path)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        rows = [line for line in ran.stdout.splitlines() if "shared--standard │" in line]
        assert len(rows) == 4
        assert sum("positive" in row for row in rows) == 2
        assert all(" ms " in row for row in rows)
        assert "404 ENGINE_DOES_NOT_EXIST" in ran.stdout
        assert "422 INVALID_INPUT: input.text" in ran.stdout
        commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
        assert not [command for command in commands if str(tmp_path) in str(command)]
