"""Remove every container, network and volume with all of these labels: `python sweep.py LABEL=VALUE…`."""

import subprocess
import sys
from collections.abc import Sequence

_SECONDS = 60
_KINDS = (
    (("ps", "--all"), ("rm", "--force", "--volumes")),
    (("network", "ls"), ("network", "rm")),
    (("volume", "ls"), ("volume", "rm", "--force")),
)
"""How each kind is listed and removed. Containers come first, because they use the others."""


def sweeping(labels: Sequence[str]) -> list[str]:
    """Return the command that removes what has all of these labels."""
    return [sys.executable, "-I", "-S", __file__, *labels]


def main() -> None:
    """Remove as much as possible. Exit with 1 if something is left, or the Docker Engine does not answer."""
    filters = [part for label in sys.argv[1:] for part in ("--filter", f"label={label}")]
    failed = False
    for find, remove in _KINDS:
        found = _docker(*find, "--quiet", *filters)
        names = found.stdout.split()
        failed |= found.returncode != 0 or (bool(names) and _docker(*remove, *names).returncode != 0)
    sys.exit(failed)


def _docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["docker", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_SECONDS,
        check=False,
    )


if __name__ == "__main__":
    main()
