"""What the README says is so: its commands run, its files exist, and the demo prints what it shows."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.stack import StackHandle, running_stack

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition(" # ")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line
]
NOT_HERE = {
    "git clone REPOSITORY enginehouse && cd enginehouse": "the repository is here",
    "make demo": "run below, in a home of its own",
    "make test": "this is it",
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
    return {**kept, "PATH": path, "ENGINEHOUSE_HOME": str(home), "COLUMNS": "110"}


def run(command: str, home: Path, folder: Path) -> str:
    result: subprocess.CompletedProcess[str] = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(home), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def test_the_two_commands_come_first() -> None:
    assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in README.splitlines()[:15]}


def test_every_command_runs(stack: StackHandle, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "engine_template", tmp_path / "engine_template")
    # `status` ends with 1 until every engine is well, a new one too, so what deploys comes last in the README.
    for command in COMMANDS:
        if command not in NOT_HERE:
            run(command, stack.home.path, tmp_path)
    assert set(NOT_HERE) <= set(COMMANDS), "a command that the README has no more"


def test_the_python_example_runs(stack: StackHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEHOUSE_URL", stack.base_url)
    monkeypatch.setenv("ENGINEHOUSE_API_KEY", stack.keys["demo"])
    (example,) = [text for kind, text in BLOCKS if kind == "python"]
    exec(compile(example, "README.md", "exec"), {})


def test_the_demo_prints_what_the_readme_shows(stack: StackHandle) -> None:
    # It uses the stack that runs in the home. What was measured differs from run to run, and with it where lines break.
    shown, printed = _words(_demo_block()), _words(run("enginehouse demo", stack.home.path, ROOT))
    assert shown - printed == set()


def _demo_block() -> str:
    texts: list[str] = [text for kind, text in BLOCKS if kind == "text" and "Refused:" in text]
    return texts[0]


def _words(text: str) -> set[str]:
    lines = [line for line in text.splitlines() if not line.startswith("✓")]
    return set(re.sub(r"\d+\.\d m?s", "", "\n".join(lines)).split())


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", " ".join(COMMANDS))) <= targets


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
