"""The pages of the command at 80 and at 40 columns, as files to look at; and what holds for all of them.

`make fix` writes the files of `snapshots/`.
"""

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from tests.support import cli_data
from tests.support.break_ins import attempt
from tests.support.cli_data import MemoryClient
from typer.testing import CliRunner

from enginehouse.cli import connection, stack, tenant, units
from enginehouse.cli.app import app
from enginehouse.cli.console import err, out
from enginehouse.cli.demonstration.examples import Example
from enginehouse.cli.demonstration.show import Board, remark_lines
from enginehouse.contracts.errors import EnginehouseError

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTHS = (80, 40)


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, (*path, name))


ALL_COMMANDS = list(_commands(typer.main.get_command(app)))
JOB = cli_data.IDS[2]
PAGES: dict[str, list[list[str]]] = {
    "help": [[*path, "--help"] for path in ALL_COMMANDS],
    "jobs": [["jobs"], ["jobs", "show", JOB], ["jobs", "show", cli_data.IDS[3]], ["jobs", "follow", cli_data.IDS[3]]],
    "engines": [["engines"], ["engines", "show", "standard"], ["engines", "show", "acme--ocr"]],
    "operating": [
        ["engines", "quarantine", "standard", "--reason", "wrong answers"],
        ["engines", "resume", "standard"],
        ["engines", "purge", "standard"],
    ],
    "dead-letters": [["dead-letters"], ["dead-letters", "show", JOB]],
    "audit": [["audit"]],
    "status": [["status"]],
    "tenant": [["tenant", "list"]],
    "errors": [
        ["submit", "standard", "--input", "nonsense"],
        ["submit", "standard", "--input", "42"],
        ["submit", "no-such-engine", "--input", "{}"],
        ["submit", "acme--ocr", "--input", "{}", "--wait"],
        ["submit", "acme--ocr", "--input", "{}", "--wait", "--json"],
        ["submit", "standard", "--wait", "--timeout", "soon"],
        ["jobs", "show"],
        ["jobs", "show", "--json"],
        ["enginse"],
        ["jobs", "--no-such-option"],
    ],
}


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MemoryClient:
    """Let every command read the fixed data."""
    client = MemoryClient()

    async def probed(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return processes

    home = SimpleNamespace(
        is_running=lambda: True, read_state=lambda: cli_data.STATE, tenants=None, supply=None, path=tmp_path
    )
    monkeypatch.setattr(connection, "Client", lambda **options: client)
    monkeypatch.setattr(units, "now", lambda: cli_data.NOW)
    monkeypatch.setattr(stack, "existing_home", lambda given: home)
    monkeypatch.setattr(stack, "_probe", probed)
    monkeypatch.setattr(tenant, "home_to_change", lambda given: home)
    monkeypatch.setattr(tenant, "read_tenants", lambda path: cli_data.TENANTS)
    return client


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the consoles terminals of a width. Steps that change in place stay plain lines."""

    def be(width: int) -> None:
        for console in (out, err):
            monkeypatch.setattr(console, "_width", width)
        monkeypatch.setattr(out, "_force_terminal", True)
        monkeypatch.setattr(err, "_force_terminal", True)
        monkeypatch.setattr("enginehouse.cli.waiting.TerminalSteps", PlainSteps)

    return be


class PlainSteps:
    """Shows nothing, where a terminal would show a spinner."""

    def __init__(self, quiet: bool = False) -> None:
        pass

    def __enter__(self) -> "PlainSteps":
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def update(self, *step: object) -> None:
        pass

    def finish(self, *step: object) -> None:
        pass


def page(commands: list[list[str]], charset: str = "utf-8") -> str:
    parts = []
    for command in commands:
        result = CliRunner(charset=charset).invoke(app, command, prog_name="enginehouse")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        status = f"[exit status {result.exit_code}]\n" if result.exit_code else ""
        parts.append(f"$ enginehouse {' '.join(command)}\n{result.output}{status}")
    return "\n".join(parts)


def demo(width: int) -> str:
    lines: list[str] = []
    board = Board(lambda line: lines.append(line.plain), width)
    for engine, output in (
        ("shared--standard", {"label": "positive", "score": 0.61}),
        ("acme--ocr", {"text": "Invoice 2026-1122\nAcme Paper Works, 12 Station Road\n300 sheets, white, A4"}),
        ("globex--embedding", {"vectors": [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]}),
    ):
        example = Example(
            "acme", engine, None, "a page that was scanned", "event over topic", "com.acme.letter.scanned"
        )
        metrics = {"queue_time": 0.0064, "predict_time": 1.7}
        board.add(example, {"status": "succeeded", "output": output, "metrics": metrics})
    refused = "404 ENGINE_DOES_NOT_EXIST: No engine 'acme--ocr' that globex may use"
    lines += [line.plain for line in remark_lines("Refused: another tenant's engine", refused, width)]
    return "\n".join(lines) + "\n"


@functools.cache
def pages(width: int) -> dict[str, str]:
    """Return all pages. `terminal` must have set the width. They are kept, because a page takes a while."""
    return {name: page(commands) for name, commands in PAGES.items()} | {"demo": demo(width)}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_pages_are_those_of_the_snapshots(width: int, terminal: Any) -> None:
    terminal(width)
    folder = SNAPSHOTS / str(width)
    shown = pages(width)
    if os.environ.get("WRITE_SNAPSHOTS"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in shown.items():
            (folder / f"{name}.txt").write_text(text)
    assert {path.stem: path.read_text() for path in folder.glob("*.txt")} == shown


def told(text: str) -> list[str]:
    """Return the lines that the command prints, without JSON, which is printed exactly."""
    lines = [line for line in text.splitlines() if not line.startswith("$ ")]
    return [line for line in lines if not re.match(r'\s*["{}\[\]]', line)]


@pytest.mark.parametrize("width", [*WIDTHS, 60])
def test_no_line_is_wider_than_the_terminal(width: int, terminal: Any) -> None:
    terminal(width)
    wide = [line for text in pages(width).values() for line in told(text) if len(line) > width]
    # A single word that is wider than the terminal stays whole.
    assert [line for line in wide if len(line.split()) > 1] == []
    assert [line for line in wide if width >= 80] == []


@pytest.mark.parametrize("width", [*WIDTHS, 60])
def test_no_word_is_broken(width: int, terminal: Any) -> None:
    terminal(1_000)
    whole = {word for text in pages(1_000).values() for word in text.split()}
    terminal(width)
    shown = {word for text in pages(width).values() for line in told(_all_shown(text)) for word in line.split()}
    assert {word for word in shown if not _is_one_of(word, whole)} == set()


def _all_shown(text: str) -> str:
    return re.sub(r"Not shown at this width:[^.]*\.", "", text)


def _is_one_of(word: str, whole: set[str]) -> bool:
    start, dots, end = word.partition("…")
    if dots and end:
        return sum(other.startswith(start) and other.endswith(end) for other in whole) == 1
    return word in whole


@pytest.mark.parametrize("charset", ["ascii", "latin-1"])
def test_a_terminal_without_our_characters_shows_other_ones_and_no_traceback(charset: str, terminal: Any) -> None:
    terminal(80)
    shown = "".join(page(commands, charset) for commands in PAGES.values())
    assert "Traceback" not in shown
    assert shown.count("?") == "".join(pages(80)[name] for name in PAGES).count("?")
    assert shown.isascii() or charset == "latin-1"


def test_in_a_pipe_every_row_is_one_line_with_all_that_there_is() -> None:
    lists: dict[str, list[tuple[str, str]]] = {
        "jobs": [(job.id, job.engine) for job in cli_data.JOBS],
        "engines": [(engine.id, engine.description) for engine in cli_data.ENGINES],
        "audit": [(f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.detail or "") for entry in cli_data.AUDIT],
        "dead-letters": [(letter.id, letter.error.message if letter.error else "") for letter in cli_data.LETTERS],
    }
    for command, rows in lists.items():
        lines = CliRunner().invoke(app, [command]).stdout.splitlines()
        assert all(line.startswith(start) and end in line for (start, end), line in zip(rows, lines[1:], strict=False))


HOSTILE = "\x1b]0;mine\x07\x9b31m\u202e\u2066\r\x7f[/nope][bold]:boom:"


def poisoned(value: Any) -> Any:
    """Return data of strangers with controls and markup in each text that has no fixed form."""
    if isinstance(value, BaseModel):
        fixed = ("id", "job_id", "status", "state", "created_at")
        changed = {name: poisoned(part) for name, part in value if name not in fixed}
        return value.model_copy(update=changed)
    if isinstance(value, list | tuple):
        return type(value)(map(poisoned, value))
    if isinstance(value, dict):
        fixed_keys = ("pid", "port", "state", "status", "url")
        return {name: part if name in fixed_keys else poisoned(part) for name, part in value.items()}
    return value + HOSTILE if type(value) is str else value


class PoisonedClient(MemoryClient):
    """Answers with what strangers may have written."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found

        def answer(*arguments: Any, **options: Any) -> Any:
            try:
                answered = found(*arguments, **options)
            except EnginehouseError as error:
                raise type(error)(str(error) + HOSTILE) from None
            return iter([*map(poisoned, answered)]) if isinstance(answered, Iterator) else poisoned(answered)

        return answer


@attempt("sends terminal control sequences to the operator's console", layer="controls are shown as characters")
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_no_command_prints_what_strangers_wrote_so_that_it_acts(
    width: int | None, as_json: bool, terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if width:
        terminal(width)
        monkeypatch.setattr(out, "_color_system", None)
        monkeypatch.setattr(err, "_color_system", None)
    monkeypatch.setattr(connection, "Client", lambda **options: PoisonedClient())
    monkeypatch.setattr(cli_data, "STATE", poisoned(cli_data.STATE) | {"refused": {"acme": HOSTILE}})
    commands = [
        *(command for name, group in PAGES.items() if name not in ("help", "tenant") for command in group),
        ["engines", "show", "none" + HOSTILE],
        ["dead-letters", "discard", HOSTILE],
    ]
    shown = 0
    for command in commands:
        chosen = (
            [*command, "--json"]
            if as_json and "--json" not in command and "--no-such-option" not in command
            else command
        )
        result = CliRunner(charset="utf-8").invoke(app, chosen, prog_name="enginehouse")
        assert result.exception is None or isinstance(result.exception, SystemExit), (chosen, result.exception)
        acting = {letter for letter in result.output if not letter.isprintable()} - {"\n"}
        assert acting == set(), (chosen, acting)
        shown += result.output.count("[/nope][bold]:boom:")
    assert shown >= 20


NOT_AS_JSON = {
    ("up",): "its output is the logs of what runs; 'status --json' says what runs",
    ("engines", "logs"): "its output is what the engine itself prints",
}


def test_every_command_prints_json_on_request() -> None:
    root = typer.main.get_command(app)
    without = set()
    for path in ALL_COMMANDS:
        command: Any = root
        for name in path:
            command = command.commands[name]
        if not hasattr(command, "commands") and "--json" not in {o for p in command.params for o in p.opts}:
            without.add(path)
    assert without == set(NOT_AS_JSON)


def test_a_group_without_a_command_lists() -> None:
    for group in ("jobs", "engines", "dead-letters", "audit", "tenant"):
        assert page([[group]]).splitlines()[1:] == page([[group, "list"]]).splitlines()[1:]


def test_the_help_states_the_exit_statuses() -> None:
    assert "Exit status: 0 done, 1 failed, 2 wrong use" in page([["--help"]])
