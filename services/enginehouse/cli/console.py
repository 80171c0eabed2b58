"""Print text, steps and logs of commands so that every terminal can show them: what it cannot encode has a plain form."""

import asyncio
import codecs
import io
import json
import re
import sys
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn
from rich.style import Style
from rich.text import Text

from enginehouse.contracts.text import clean

# No markup: what is printed contains what strangers wrote, such as the description of an engine.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

_PLAIN_EVERY_SECONDS = 10.0
_SPINNER_WIDTH, _BAR_WIDTH, _SHARE_WIDTH = 2, 30, 6
_COLOURS = ("cyan", "magenta", "blue", "yellow", "green", "bright_cyan", "bright_magenta", "bright_blue")

_PLAIN_FORMS = {"·": "-", "…": "...", "✓": "+", "✗": "x", "µ": "u"}
"""What stands for a character of our texts where it cannot be shown. Any other character becomes a question mark."""


def _plain_forms(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN_FORMS.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error("enginehouse-plain-forms", _plain_forms)


def prepare_streams() -> None:
    """Make standard output and standard error print a plain form of what they cannot encode, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="enginehouse-plain-forms")


def can_show(letter: str, console: Console = out) -> bool:
    """Whether the terminal's encoding has a character."""
    try:
        letter.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def ellipsis(console: Console = out) -> str:
    """Return what stands for letters that are left out, as the terminal can show it."""
    return "…" if can_show("…", console) else ".."


def wrap(text: Text, width: int) -> list[Text]:
    """Break text into lines between words. A word that is wider than `width` stays whole on a line of its own."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        breaks, begin = [], 0
        for word in re.finditer(r"\S+", line.plain):
            if cell_len(line.plain[begin : word.end()]) > width and line.plain[begin : word.start()].strip():
                begin = word.start()
                breaks.append(begin)
        lines += line.divide(breaks)
    for line in lines:
        line.rstrip()
    return lines


def harmless(text: str | Text, style: str | Style = "") -> Text:
    """Return text in which nothing but lines can control a terminal, whoever wrote it: every printing goes through here."""
    shown = text.copy() if isinstance(text, Text) else Text(style=style)
    plain = text.plain if isinstance(text, Text) else text
    # Line by line, as `clean` keeps the length, and with it the places of styles.
    shown.plain = "\n".join(map(clean, plain.split("\n")))
    return shown


def say(text: str | Text, style: str = "", console: Console = out) -> None:
    """Print prose. At a terminal lines end between words; elsewhere each line stays one line."""
    whole = harmless(text, style)
    for line in wrap(whole, console.width) if console.is_terminal else [whole]:
        console.print(line, soft_wrap=True)


def note(text: str, style: str = "dim") -> None:
    """Print to standard error what is said beside the result."""
    say(text, style, err)


def print_exactly(text: str) -> None:
    """Print lines to standard output without colours or wrapping."""
    sys.stdout.write(f"{harmless(text).plain}\n")
    sys.stdout.flush()


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print one JSON document, in ASCII: what could control a terminal is escaped. `indent` None: on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    print_exactly(json.dumps(value, indent=indent).replace("\x7f", r"\u007f"))


class _Bar(BarColumn):
    """Shows a bar only for steps that know how far they are."""

    def render(self, task):  # type: ignore[no-untyped-def]
        return super().render(task) if task.total else Text("")


class _Share(TaskProgressColumn):
    """Shows the percentage only for steps that know how far they are."""

    def render(self, task):  # type: ignore[no-untyped-def]
        return super().render(task) if task.total else Text("")


class TerminalSteps:
    """Implements `local.steps.Steps`.

    Elsewhere than at a terminal: one line per step, and one now and then during it.
    """

    def __init__(self, console: Console = err, *, quiet: bool = False) -> None:
        """Show the steps. With `quiet`, for programs that read standard error: only at a terminal."""
        self._console = console
        self._quiet = quiet and not console.is_terminal
        self._live = (
            Progress(
                SpinnerColumn("dots" if can_show("⠋", console) else "line"),
                TextColumn("{task.description}", markup=False),
                _Bar(bar_width=_BAR_WIDTH),
                _Share(),
                console=console,
            )
            if console.is_terminal
            else None
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed_at: dict[str, float] = {}

    def __enter__(self) -> "TerminalSteps":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop changing the screen. From now on steps are plain lines."""
        if self._live:
            self._live.stop()
            self._live = None

    def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
        """Show that step `key` is doing `text`. With `total`: it has done `done` of `total`."""
        if self._live:
            if key not in self._tasks:
                self._tasks[key] = self._live.add_task("", total=None)
            self._live.update(
                self._tasks[key], description=self._short(text, total), completed=done, total=total or None
            )
        elif not self._quiet and time.monotonic() - self._printed_at.get(key, float("-inf")) > _PLAIN_EVERY_SECONDS:
            self._printed_at[key] = time.monotonic()
            share = f" ({100 * done // total} %)" if total else ""
            self._console.print(harmless(f"… {text}{share}"), soft_wrap=True)

    def finish(self, key: str, text: str, ok: bool = True) -> None:
        """Show that step `key` is over."""
        task = self._tasks.pop(key, None)
        if self._live and task is not None:
            self._live.remove_task(task)
            self._live.refresh()
        self._printed_at.pop(key, None)
        mark = ("✓ ", "green") if ok else ("✗ ", "red")
        if not self._quiet:
            say(Text.assemble(mark, text), console=self._console)

    def _short(self, text: str, total: int) -> str:
        # Cut to one line, because lines that change in place must not wrap.
        text = clean(text)
        room = self._console.width - _SPINNER_WIDTH - (_BAR_WIDTH + _SHARE_WIDTH if total else 0)
        dots = ellipsis(self._console)
        return text if cell_len(text) <= room else set_cell_size(text, max(room - len(dots), 0)) + dots

    def print(self, line: RenderableType) -> None:
        """Print a line to standard output as it is, above the steps that still change."""
        # At a terminal, output goes through the console that redraws the steps.
        console = self._console if self._live and out.is_terminal else out
        console.print(line, soft_wrap=True)


async def follow_logs(folder: Path, every_seconds: float = 0.2) -> None:
    """Print every new line of the logs in `folder`, with the name of its process, until cancelled."""
    seen = _sizes(folder)
    while True:
        for path, size in _sizes(folder).items():
            start = seen.get(path, 0)
            if size > start:
                seen[path] = print_lines(path, start)
        await asyncio.sleep(every_seconds)


def _sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in sorted(folder.glob("*.log"))}


def print_lines(path: Path, start: int) -> int:
    """Print the complete lines after `start`. Return where the next look begins."""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read(1 << 20)
    end = text.rfind(b"\n") + 1
    if not end and len(text) < 1 << 20:
        return start
    end = end or len(text)
    style = _COLOURS[zlib.crc32(path.stem.encode()) % len(_COLOURS)]
    for line in text[:end].decode(errors="replace").removesuffix("\n").split("\n"):
        out.print(Text.assemble((f"{path.stem:<28} ", style), clean(line)), soft_wrap=True)
    return start + end
