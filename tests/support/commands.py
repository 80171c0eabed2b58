"""Runs `enginehouse` commands in this process: starting Python for each of them would take a second each time."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from enginehouse.cli.app import app

_RUNNER = CliRunner()


@dataclass(frozen=True)
class Ran:
    """What a command did: its exit status, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_command(home: Path | None, *arguments: str, stdin: str = "", variables: Mapping[str, str] | None = None) -> Ran:
    """Run a command for a home, in 80 columns, with these variables and no others of the platform."""
    unset = dict.fromkeys(name for name in os.environ if name.startswith("ENGINEHOUSE_"))
    given = {"COLUMNS": "80", **(variables or {})} | ({"ENGINEHOUSE_HOME": str(home)} if home else {})
    result = _RUNNER.invoke(app, list(arguments), input=stdin, env={**unset, **given})
    return Ran(result.exit_code, result.stdout, result.stderr)
