"""Finding a daprd 1.18 on this machine, and getting one where there is none."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from enginehouse.local.errors import LocalError

SERIES = "1.18"
BUILD_VERSION = "1.18.2"
"""Built from source: not every dependency of 1.18.3 can be resolved."""
RELEASE_VERSION = "1.18.3"
"""Downloaded, where the project's releases can be reached."""

REMEDIES = (
    f"Ways out: put a daprd {SERIES} on PATH or into ~/.dapr/bin (the official 'dapr init --slim' does); or give this "
    "machine access to Dapr's releases on github.com; or install Go 1.26.5 or later with a module proxy it can reach "
    "(GOPROXY), and run the same command again."
)


def cache_folder() -> Path:
    """Where what is expensive to get is kept, outside the repository, so that it happens once."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "enginehouse"


def cached_path(version: str) -> Path:
    """Where our own copy of a daprd is kept."""
    return cache_folder() / "dapr" / version / "daprd"


def version_of(binary: Path) -> str | None:
    """What `daprd --version` says, or None if it cannot be run."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def is_right(binary: Path) -> bool:
    """Whether this is a daprd of our series. The file must be called daprd: tools find it by that name."""
    version = version_of(binary) if binary.name == "daprd" and binary.is_file() else None
    return version is not None and re.match(rf"v?{re.escape(SERIES)}\.", version) is not None


def find() -> Path | None:
    """A daprd that is already here: on PATH, in ~/.dapr/bin, or in our cache."""
    on_path = shutil.which("daprd")
    candidates = [Path(on_path)] if on_path else []
    candidates += [Path.home() / ".dapr" / "bin" / "daprd", cached_path(RELEASE_VERSION), cached_path(BUILD_VERSION)]
    return next((binary for binary in candidates if is_right(binary)), None)


def go_platform() -> tuple[str, str]:
    """This machine in the words of Go and of Dapr's release archives, as in ("linux", "amd64")."""
    machine = platform.machine().lower()
    architecture = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(machine, machine)
    return platform.system().lower(), architecture


def require() -> Path:
    """A daprd that is already here, else LocalError: for tests, which get nothing by themselves."""
    binary = find()
    if binary is None:
        raise LocalError(f"There is no daprd {SERIES} on this machine.", "Run 'enginehouse setup' first. " + REMEDIES)
    return binary
