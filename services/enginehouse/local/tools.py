"""Run a tool (uv, go) to its end. Pass its lines on as they come, and leave no process behind if interrupted."""

import asyncio
import contextlib
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from enginehouse.local.guard import Guard, signal_group

_KEPT_LINES = 400
_LONGEST_LINE = 1 << 20


class ToolFailed(Exception):
    """A tool ended with an error. The text is the end of its output."""


async def run_tool(
    command: Sequence[str],
    guard: Guard,
    *,
    environment: Mapping[str, str],
    cwd: Path,
    on_line: Callable[[str], None] | None = None,
    given: str | None = None,
) -> str:
    """Run the command and return its standard output. Pass lines of standard error to `on_line`.

    `given` is its standard input: written at once. May raise ToolFailed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            limit=_LONGEST_LINE,
        )
    except OSError as error:
        raise ToolFailed(f"{command[0]}: {error.strerror}") from None
    guard.watch(process.pid)
    last_lines: deque[str] = deque(maxlen=_KEPT_LINES)

    async def listen(stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # The line is longer than any that a person could read.
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            last_lines.append(text)
            if on_line:
                on_line(text)

    assert process.stdout
    assert process.stderr
    if process.stdin and given is not None:
        process.stdin.write(given.encode())
        process.stdin.close()
    try:
        output, _ = await asyncio.gather(process.stdout.read(), listen(process.stderr))
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        guard.forget(process.pid)
    if code:
        raise ToolFailed("\n".join(list(last_lines)[-15:]) or f"{command[0]} ended with {code}")
    return output.decode(errors="replace")
