"""End the process groups that a supervisor leaves behind when it is killed.

The guard is a small process that reads `+PID` and `-PID` lines from a pipe; only the supervisor writes to it. When the
pipe closes, the groups still listed get SIGTERM and, after a grace period, SIGKILL. A line `!COMMAND`, as JSON, names a
command that is run after that. The kernel's parent-death signal
(PR_SET_PDEATHSIG) would reach a child but not the child's own children. Where a group has a user of its own, the line is
`+PID USER`, and all processes of that user end with the group, also those that have left it.
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
_CLOSE_SECONDS = 120.0
"""Longest time that the guard may take to end everything."""


class Guard:
    """The supervisor's end of the pipe. The guard process starts with the first group to watch."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._unwritten = b""
        """Lines for which there is no room in the pipe."""

    def watch(self, pid: int, user: int | None = None) -> None:
        """End the group led by `pid` when this process ends, and with it all processes of its own `user`, if it has one."""
        self._start()
        self._write(f"+{pid}\n" if user is None else f"+{pid} {user}\n")

    def run_last(self, command: Sequence[str]) -> None:
        """Run this command when this process ends and no group is left, however it ends."""
        self._start()
        self._write(f"!{json.dumps(list(command))}\n")

    def _start(self) -> None:
        if self._process is None:
            # -I -S: standard library only. It starts in milliseconds, and the environment cannot inject code into it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True, bufsize=0
            )
            assert self._process.stdin
            os.set_blocking(self._process.stdin.fileno(), False)

    def forget(self, pid: int) -> None:
        """Stop watching the group led by `pid`. It is gone, and its number may be given to another process.

        What is left of its own user ends.
        """
        self._write(f"-{pid}\n")

    def close(self) -> None:
        """End the guard, and with it every group that is still listed. Kill it if it takes far too long."""
        if self._process is None:
            return
        self._write("")
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _write(self, line: str) -> None:
        """Write a line without waiting: what finds no room in the pipe follows with the next one."""
        if self._process and self._process.stdin:
            self._unwritten += line.encode()
            with contextlib.suppress(OSError):
                self._unwritten = self._unwritten[self._process.stdin.write(self._unwritten) or 0 :]


def signal_group(pid: int, number: int) -> bool:
    """Send a signal to the group led by `pid`. Return whether a process was there to get it."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end_user(user: int) -> None:
    """Kill all processes of a user that only one engine's process has.

    A child without any other right does it, because the kernel signals all processes that a user may signal in one step, in
    which none can start another. Only the child's effective user is theirs. They could stop or kill it by its real and its
    saved one, which nobody else has.
    """
    spare = spare_user(user)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.setresuid(spare, user, spare)
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    os.waitpid(child, 0)


def spare_user(user: int) -> int:
    """Return the user that nobody is but the child that ends all processes of `user`."""
    return user + 1


def _end(users: dict[int, int | None]) -> None:
    """End the groups, by their leaders, and all processes of their users."""
    _end_groups(set(users))
    for user in users.values():
        if user is not None:
            end_user(user)


def _end_groups(groups: set[int]) -> None:
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
    """Read the pipe until it closes, then end what is still listed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    users: dict[int, int | None] = {}
    last: list[str] = []
    for line in sys.stdin:
        if line.startswith("!"):
            last = json.loads(line[1:])
            continue
        pid, *user = map(int, line[1:].split())
        if line.startswith("+"):
            users[pid] = user[0] if user else None
        elif (gone := users.pop(pid, None)) is not None:
            end_user(gone)
    _end(users)
    if last:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(last, stdout=subprocess.DEVNULL, timeout=_LAST_COMMAND_SECONDS, check=False)


if __name__ == "__main__":
    main()
