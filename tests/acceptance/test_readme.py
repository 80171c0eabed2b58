"""The commands in the README and the documents run as they are typed."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.support.commands import run_command
from tests.support.documents import ROOT, Document
from tests.support.stack import StackHandle

README = Document.read(ROOT / "README.md")
DOCUMENTS = [README, Document.read(ROOT / "CONTRIBUTING.md"), *map(Document.read, sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = list(dict.fromkeys(command for document in DOCUMENTS for command in document.commands))
NOT_HERE = {
    "git clone REPOSITORY enginehouse && cd enginehouse": "the repository is here",
    "make demo": "run by test_demo.py",
    "make test": "this is it",
    "make check": "run before it",
    "make up": "the stack is up",
    ". .venv/bin/activate": "commands run in this environment",
}


@pytest.fixture(scope="module")
def stack(shared_stack: StackHandle) -> StackHandle:
    shared_stack.deploy(ROOT / "services" / "engines" / "standard")
    return shared_stack


def run(command: str, stack: StackHandle) -> None:
    program, *arguments = shlex.split(command)
    if program == "enginehouse":
        result = run_command(stack.home.path, *arguments)
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    else:
        variables = {**os.environ, "ENGINEHOUSE_API_KEY": stack.keys["demo"]}
        subprocess.run(["bash", "-c", command], env=variables, check=True)


def test_the_two_commands_come_first() -> None:
    assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in README.text.splitlines()[:15]}


def test_every_command_runs(stack: StackHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # `status` ends with 1 until every engine is well, and of a new one as well, so the README deploys last.
    for command in COMMANDS:
        if command not in NOT_HERE:
            run(command.replace("http://127.0.0.1:8080", stack.base_url), stack)
    assert set(NOT_HERE) <= set(COMMANDS), "a command that no document has any more"


def test_the_python_example_runs(stack: StackHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEHOUSE_HOME", str(stack.home.path))
    (example,) = [block.text for block in README.blocks if block.language == "python"]
    exec(compile(example, "README.md", "exec"), {})
