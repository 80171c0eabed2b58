"""End the process groups that a supervisor leaves behind when it is killed.

The guard is a small process that reads `+PID` and `-PID` lines from a pipe; only the supervisor writes to it. When the
pipe closes, the groups still listed get SIGTERM and, after a grace period, SIGKILL. A line `!COMMAND`, as JSON, names a
command that is run after that. The kernel's parent-death signal
(PR_SET_PDEATHSIG) would reach a child but not the child's own children.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

GRACE_SECONDS = 3.0
_LAST_COMMAND_SECONDS = 60.0


class Guard:
    """The supervisor's end of the pipe. The guard process starts with the first group to watch."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, pid: int) -> None:
        """End the group led by `pid` when this process ends."""
        self._start()
        self._write(f"+{pid}\n")

    def run_last(self, command: Sequence[str]) -> None:
        """Run this command when this process ends and no group is left, however it ends."""
        self._start()
        self._write(f"!{json.dumps(list(command))}\n")

    def _start(self) -> None:
        if self._process is None:
            # -I -S: standard library only. It starts in milliseconds, and the environment cannot inject code into it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True
            )

    def forget(self, pid: int) -> None:
        """Stop watching the group led by `pid`. It is gone, and its number may be given to another process."""
        self._write(f"-{pid}\n")

    def close(self) -> None:
        """End the guard, and with it every group that is still listed."""
        if self._process is None:
            return
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        self._process = None

    def _write(self, line: str) -> None:
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()


def signal_group(pid: int, number: int) -> bool:
    """Send a signal to the group led by `pid`. Return whether a process was there to get it."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end(groups: set[int]) -> None:
    groups = {pid for pid in groups if signal_group(pid, signal.SIGTERM)}
    # A stopped process receives SIGTERM only after it continues.
    for pid in groups:
        signal_group(pid, signal.SIGCONT)
    deadline = time.monotonic() + GRACE_SECONDS
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        groups = {pid for pid in groups if signal_group(pid, 0)}
    for pid in groups:
        signal_group(pid, signal.SIGKILL)


def main() -> None:
    """Read the pipe until it closes, then end the groups still listed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    last: list[str] = []
    for line in sys.stdin:
        if line.startswith("!"):
            last = json.loads(line[1:])
            continue
        pid = int(line[1:])
        if line.startswith("+"):
            groups.add(pid)
        else:
            groups.discard(pid)
    _end(groups)
    if last:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(last, stdout=subprocess.DEVNULL, timeout=_LAST_COMMAND_SECONDS, check=False)


if __name__ == "__main__":
    main()
