"""Print the steps, errors and logs of commands. Steps change in place at a terminal, and are plain lines elsewhere."""

import asyncio
import time
import zlib
from pathlib import Path
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from enginehouse.contracts.errors import EnginehouseError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_PLAIN_EVERY_SECONDS = 10.0
_COLOURS = ("cyan", "magenta", "blue", "yellow", "green", "bright_cyan", "bright_magenta", "bright_blue")


def print_error(error: EnginehouseError) -> None:
    """Print an error: its sentence and what to do about it."""
    err.print(Text(str(error), style="red"), soft_wrap=True)


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

    def __init__(self, console: Console = err) -> None:
        self._console = console
        self._live = (
            Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                _Bar(bar_width=30),
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
            self._live.update(self._tasks[key], description=_short(text), completed=done, total=total or None)
        elif time.monotonic() - self._printed_at.get(key, float("-inf")) > _PLAIN_EVERY_SECONDS:
            self._printed_at[key] = time.monotonic()
            share = f" ({100 * done // total} %)" if total else ""
            self._console.print(Text(f"… {text}{share}"), soft_wrap=True)

    def finish(self, key: str, text: str, ok: bool = True) -> None:
        """Show that step `key` is over."""
        task = self._tasks.pop(key, None)
        if self._live and task is not None:
            self._live.remove_task(task)
            self._live.refresh()
        self._printed_at.pop(key, None)
        mark = ("✓ ", "green") if ok else ("✗ ", "red")
        self._console.print(Text.assemble(mark, text), soft_wrap=True)

    def print(self, *parts: RenderableType) -> None:
        """Print to standard output, above the steps that still change."""
        # At a terminal, output goes through the console that redraws the steps.
        console = self._console if self._live and out.is_terminal else out
        console.print(*parts)


def _short(text: str) -> str:
    return text if len(text) <= 90 else text[:89] + "…"


async def follow_logs(folder: Path, every_seconds: float = 0.2) -> None:
    """Print every new line of the logs in `folder`, with the name of its process, until cancelled."""
    seen = _sizes(folder)
    while True:
        for path, size in _sizes(folder).items():
            start = seen.get(path, 0)
            if size > start:
                seen[path] = _print_lines(path, start)
        await asyncio.sleep(every_seconds)


def _sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in sorted(folder.glob("*.log"))}


def _print_lines(path: Path, start: int) -> int:
    """Print the complete lines after `start`. Return where the next look begins."""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read(1 << 20)
    end = text.rfind(b"\n") + 1
    if not end and len(text) < 1 << 20:
        return start
    end = end or len(text)
    style = _COLOURS[zlib.crc32(path.stem.encode()) % len(_COLOURS)]
    for line in text[:end].decode(errors="replace").splitlines():
        # Printed as plain text: the output of an engine must not control the terminal.
        clean = "".join(letter if letter.isprintable() or letter == "\t" else "�" for letter in line)
        out.print(Text.assemble((f"{path.stem:<28} ", style), clean), soft_wrap=True)
    return start + end
