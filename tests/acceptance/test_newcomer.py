"""A newcomer follows the five steps of the template word for word, in a folder of their own, and then page two in Node."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.commands import run_command
from tests.support.dapr import PORTS
from tests.support.documents import ROOT, Document
from tests.support.stack import StackHandle, running_stack

pytestmark = pytest.mark.timeout(300)  # The first run downloads what the engine's own environment needs.


@dataclass(frozen=True)
class Newcomer:
    """Somebody with a fresh checkout in which `make up` runs, and an empty home folder."""

    checkout: Path
    folder: Path
    stack: StackHandle

    def run(self, *commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands in one shell, as typed: it stops at the first that fails."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENGINEHOUSE_", "VIRTUAL_"))}
        own = {
            "HOME": str(self.folder),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        }
        return subprocess.run(
            ["bash", "-e", "-c", "\n".join(commands)],
            cwd=self.checkout,
            # pip compiles every module of all packages otherwise, and few are imported.
            env={**kept, **own, "COLUMNS": "80", "PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    checkout = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    (checkout / ".venv").symlink_to(Path(sys.executable).parents[1])
    with running_stack(checkout / ".enginehouse", platform_engines="none") as stack:
        yield Newcomer(checkout, tmp_path_factory.mktemp("user"), stack)


def test_the_five_steps_of_the_template_work_word_for_word(newcomer: Newcomer) -> None:
    readme = Document.read(ROOT / "engine_template" / "README.md")
    steps = [block.text for block in readme.blocks if block.language == "sh"]
    assert len(steps) == 6
    port = str(PORTS.take())
    done = newcomer.run(*(step.replace("8000", port) for step in steps))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert '{"result":{"words":4,"longest":"engines"}}' in done.stdout
    assert "demo--my-engine works" in done.stdout
    assert "failed" not in done.stdout
    assert '"words": 4' in done.stdout.partition("demo--my-engine v1 is deployed")[2]
    made = {path.name for path in (newcomer.folder / "my-engine").iterdir()}
    assert ".enginehouse" not in made


def test_the_engine_in_another_language_works_word_for_word(newcomer: Newcomer) -> None:
    page = Document.read(ROOT / "docs" / "engines.md")
    code, description, *_ = (block.text for block in page.blocks if block.language in ("js", "yaml"))
    folder = newcomer.checkout / "reverser"
    folder.mkdir()
    (folder / "engine.js").write_text(code)
    (folder / "engine.yaml").write_text(description)
    commands = next(block.text for block in page.blocks if "engines test reverser" in block.text)
    done = newcomer.run(". .venv/bin/activate", commands)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"reversed": "desserts"' in done.stdout
    refused = newcomer.run(". .venv/bin/activate", """enginehouse submit reverser --input '{"text": 5}' --wait""")
    assert refused.returncode == 1
    assert "text must be a string" in refused.stdout + refused.stderr


def _go(source: Path, code: str) -> list[str]:
    (source / "main.go").write_text(code)
    return ["go", "build", "-o", "engine", "main.go"]


def _rust(source: Path, code: str) -> list[str]:
    page = Document.read(ROOT / "docs" / "engines.md")
    (manifest,) = (block.text for block in page.blocks if block.language == "toml")
    (source / "src").mkdir()
    (source / "src" / "main.rs").write_text(code)
    (source / "Cargo.toml").write_text(manifest)
    return ["cargo", "build", "--quiet"]


@pytest.mark.parametrize(
    ("language", "compiler", "prepare", "binary"),
    [("go", "go", _go, "engine"), ("rust", "cargo", _rust, "target/debug/engine")],
)
def test_a_compiled_engine_works_as_it_is_shown(
    newcomer: Newcomer,
    tmp_path: Path,
    language: str,
    compiler: str,
    prepare: Callable[[Path, str], list[str]],
    binary: str,
) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not on this machine")
    page = Document.read(ROOT / "docs" / "engines.md")
    (code,) = (block.text for block in page.blocks if block.language == language)
    (description,) = (block.text for block in page.blocks if "name: compiled" in block.text)
    source, folder = tmp_path / "source", tmp_path / "compiled"
    source.mkdir()
    folder.mkdir()
    # What a debugger needs takes cargo as long as the rest.
    env = {**os.environ, "CARGO_PROFILE_DEV_DEBUG": "0"}
    built = subprocess.run(prepare(source, code), cwd=source, env=env, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    shutil.copy2(source / binary, folder / "engine")
    (folder / "engine.yaml").write_text(description.replace("name: compiled", f"name: compiled-{language}"))
    (folder / "example.json").write_text('{"text": "stressed"}')
    home = newcomer.stack.home.path
    for command in ("test", "deploy"):
        done = run_command(home, "engines", command, str(folder))
        assert done.returncode == 0, done.stdout + done.stderr
    assert newcomer.stack.submit(f"demo--compiled-{language}", {"text": "desserts"})["output"] == {
        "reversed": "stressed"
    }
    refused = newcomer.stack.submit(f"demo--compiled-{language}", {"text": 5})
    assert (refused["status"], refused["error"]["code"]) == ("failed", "INVALID_INPUT")


@pytest.mark.parametrize("command", ["engines deploy .", "engines", "status", "tenant add acme"])
def test_where_no_enginehouse_runs_a_command_makes_none_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    shutil.copytree(ROOT / "engine_template", tmp_path / "engine")
    monkeypatch.chdir(tmp_path / "engine")
    done = run_command(None, *command.split())
    assert done.returncode == 1
    assert "make up" in done.stdout + done.stderr
    assert not list(tmp_path.rglob(".enginehouse"))
