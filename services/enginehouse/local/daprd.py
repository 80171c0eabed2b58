"""Find a daprd 1.18 on this machine."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from enginehouse.local.errors import LocalError

SERIES = "1.18"
BUILD_VERSION = "1.18.2"
"""Version to build from source: not every dependency of 1.18.3 can be resolved."""
BUILT = f"{BUILD_VERSION}-names"
"""Folder in the cache of the build from source: it has the name resolution that `acquire.py` adds."""
RELEASE_VERSION = "1.18.3"
"""Version to download, if the project's releases can be reached."""

_PAIR_SECONDS = 3.5e-6
_COMPARING_SHARE = 0.01
_USUALLY_COMPARED_SECONDS = 60
_LONGEST_SECONDS = 600
"""An engine whose store was away when the sidecar loaded it is out of reach for so long at most."""
_FIRST_PATCH_THAT_CAN_BE_TOLD = 2
"""daprd 1.18.2 takes the interval as an argument."""

REMEDIES = (
    f"To solve this, put a daprd {SERIES} on PATH or into ~/.dapr/bin (the official 'dapr init --slim' does); "
    "or give this machine access to Dapr's releases on github.com; "
    "or install Go 1.26.5 or later with a module proxy that it can reach (GOPROXY), and run the same command again."
)


def cache_folder() -> Path:
    """Return the folder for expensive downloads and builds. It is outside the repository, so they happen once."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "enginehouse"


def cached_path(build: str) -> Path:
    """Return the path of our own copy of a daprd: a release's version, or BUILT."""
    return cache_folder() / "dapr" / build / "daprd"


def version_of(binary: Path) -> str | None:
    """Return the output of `daprd --version`, or None if it cannot be run."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def is_right(binary: Path) -> bool:
    """Return whether this is a daprd of the right series. Its file must be called daprd: tools find it by that name."""
    version = version_of(binary) if binary.name == "daprd" and binary.is_file() else None
    return version is not None and re.match(rf"v?{re.escape(SERIES)}\.", version) is not None


def find() -> Path | None:
    """Return a daprd that is on PATH, in ~/.dapr/bin or in the cache; None if there is none."""
    on_path = shutil.which("daprd")
    candidates = [Path(on_path)] if on_path else []
    candidates += [Path.home() / ".dapr" / "bin" / "daprd", cached_path(RELEASE_VERSION), cached_path(BUILT)]
    return next((binary for binary in candidates if is_right(binary)), None)


def compared_every(binary: Path, files: int) -> int | None:
    """Return the seconds after which a daprd with so many files in a folder compares them with what it has loaded.

    None: after its usual minute. It compares each with each, which takes 3.5 s of processor time for 1,000, and may take 1 %.
    What has changed it sees at once; it has to compare only for a change that it missed, and for what it could not load.
    """
    seconds = min(round(files**2 * _PAIR_SECONDS / _COMPARING_SHARE), _LONGEST_SECONDS)
    if seconds <= _USUALLY_COMPARED_SECONDS:
        return None
    found = re.match(rf"v?{re.escape(SERIES)}\.(\d+)", version_of(binary) or "")
    return seconds if found and int(found[1]) >= _FIRST_PATCH_THAT_CAN_BE_TOLD else None


def go_platform() -> tuple[str, str]:
    """Return this machine's system and architecture as Go and Dapr's archives name them: ("linux", "amd64")."""
    machine = platform.machine().lower()
    architecture = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(machine, machine)
    return platform.system().lower(), architecture


def require() -> Path:
    """Return a daprd that is already here, or raise LocalError. For tests, which do not download or build."""
    binary = find()
    if binary is None:
        raise LocalError(f"There is no daprd {SERIES} on this machine.", "Run 'enginehouse setup' first. " + REMEDIES)
    return binary
