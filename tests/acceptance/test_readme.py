"""The commands in the README and the documents run, and the demo prints the output that they show."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.documents import ROOT, Document
from tests.support.stack import StackHandle, running_stack

README = Document.read(ROOT / "README.md")
DOCUMENTS = [README, Document.read(ROOT / "CONTRIBUTING.md"), *map(Document.read, sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = list(dict.fromkeys(command for document in DOCUMENTS for command in document.commands))
NOT_HERE = {
    "git clone REPOSITORY enginehouse && cd enginehouse": "the repository is here",
    "make demo": "run below, in a home of its own",
    "make test": "this is it",
    "make check": "run before it",
    "make up": "the stack is up",
    ". .venv/bin/activate": "its folder is first on PATH",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    with running_stack(tmp_path_factory.mktemp("home"), platform_engines="standard") as handle:
        handle.until_engine("shared--standard")
        yield handle


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGINEHOUSE_")}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, "PATH": path, "ENGINEHOUSE_HOME": str(home), "COLUMNS": "80"}


def run(command: str, home: Path, folder: Path, key: str = "") -> str:
    variables = environment(home) | ({"ENGINEHOUSE_API_KEY": key} if command.startswith("curl ") else {})
    result: subprocess.CompletedProcess[str] = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def test_the_two_commands_come_first() -> None:
    assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in README.text.splitlines()[:15]}


def test_every_command_runs(stack: StackHandle, tmp_path: Path) -> None:
    # `status` ends with 1 until every engine is well, and of a new one as well, so the README deploys last.
    for command in COMMANDS:
        if command not in NOT_HERE:
            run(command.replace("http://127.0.0.1:8080", stack.base_url), stack.home.path, tmp_path, stack.keys["demo"])
    assert set(NOT_HERE) <= set(COMMANDS), "a command that no document has any more"


def test_the_python_example_runs(stack: StackHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEHOUSE_HOME", str(stack.home.path))
    (example,) = [block.text for block in README.blocks if block.language == "python"]
    exec(compile(example, "README.md", "exec"), {})


def test_the_demo_prints_what_the_documents_show(stack: StackHandle) -> None:
    # It uses the stack that runs in the home. What was measured differs from run to run, and so does a job's id.
    shown = {document.name: _demo(document) for document in DOCUMENTS if _demo(document)}
    assert set(shown) == {"README.md", "docs/demo.md"}
    printed = _words(run("enginehouse demo", stack.home.path, ROOT))
    assert {name: words - printed for name, words in shown.items()} == {name: set() for name in shown}


def _demo(document: Document) -> set[str]:
    """The words of the demo's output that a document shows."""
    texts = [block.text for block in document.blocks if block.language == "text" and "Refused:" in block.text]
    return _words("\n".join(texts))


def _words(text: str) -> set[str]:
    lines = [line for line in text.splitlines() if not line.startswith("✓")]
    return set(re.sub(r"\d+\.\d m?s|[0-9a-f]{8}-(…|[0-9a-f-]{27})", "", "\n".join(lines)).split())
