"""Run a command with at most so much private memory: `python limit.py BYTES COMMAND…`.

The command replaces this process, so its limit holds from its first instruction. A shell's `ulimit` would add variables
to the command's environment.
"""

import contextlib
import os
import resource
import sys
from collections.abc import Sequence


def limited(command: Sequence[str], memory_bytes: int) -> list[str]:
    """Return a command that runs `command` with at most this much private memory."""
    # -I -S: standard library only. It starts in milliseconds, and the environment cannot inject code into it.
    return [sys.executable, "-I", "-S", __file__, str(memory_bytes), *command]


def main() -> None:
    """Set the limit and become the command."""
    limit, command = int(sys.argv[1]), sys.argv[2:]
    # ValueError: the machine allows even less, and that limit stays.
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        os.execvp(command[0], command)  # noqa: S606 - there is no shell on purpose
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
