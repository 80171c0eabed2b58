"""Remove every container, network and volume with all of these labels: `python sweep.py LABEL=VALUE…`."""

import subprocess
import sys
import time
from collections.abc import Sequence

_SECONDS = 60
_LOOK_AGAIN_SECONDS = 0.2
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
    """Remove everything. Exit with what the Docker Engine says if it does not answer, or something is left after a while."""
    filters = [part for label in sys.argv[1:] for part in ("--filter", f"label={label}")]
    give_up_at = time.monotonic() + _SECONDS
    for find, remove in _KINDS:
        while names := _listed(*find, "--quiet", *filters):
            # Again and again: what the Docker Engine is just removing itself cannot be removed, and is still there.
            done = _docker(*remove, *names)
            if done.returncode and time.monotonic() > give_up_at:
                sys.exit(done.stderr)
            time.sleep(_LOOK_AGAIN_SECONDS if done.returncode else 0)


def _listed(*arguments: str) -> list[str]:
    """Return what a command lists. Exit with its message if it fails: then nobody knows what is left."""
    done = _docker(*arguments)
    if done.returncode:
        sys.exit(done.stderr or f"docker {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout.split()


def _docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_SECONDS,
        check=False,
    )


if __name__ == "__main__":
    main()
