"""Run the demo on every other Python of this machine that Enginehouse supports, each in an environment of its own."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from enginehouse.local.interpreters import find_uv, search_path, uv_environment

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
"""The versions that the README promises. A missing interpreter is said and skipped."""

ROOT = Path(__file__).parents[2]


def find(version: str) -> Path | None:
    """Return the interpreter of this version on this machine, or None."""
    environment = {**uv_environment(), "PATH": search_path(version)}
    command = [str(find_uv()), "python", "find", "--system", "--no-project", version]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def run_demo(python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Install the project for this interpreter, and run the demo in a new home."""
    venv, uv = folder / "venv", find_uv()
    environment = {
        **uv_environment(),
        "UV_PROJECT_ENVIRONMENT": str(venv),
        "PATH": f"{uv.parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
    }
    install = [str(uv), "sync", "--quiet", "--frozen", "--all-extras", "--no-dev", "--python", str(python)]
    demo = [str(venv / "bin" / "enginehouse"), "demo", "--home", str(folder / "home")]
    for command in (install, demo):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            break
    return done


def main() -> int:
    """Print a line for each version. Return the number of those on which the demo does not work."""
    failed = 0
    running = "{}.{}".format(*sys.version_info[:2])
    for version in SUPPORTED:
        python = None if version == running else find(version)
        if python is None:
            print(f"Python {version}: {'is the one of this environment' if version == running else 'not here'}")
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"enginehouse-{version}-") as folder:
            done = run_demo(python, Path(folder))
        seconds = f"{time.monotonic() - began:.0f} s"
        if done.returncode:
            failed += 1
            print(f"Python {version} ({python}): the demo does not work, after {seconds}:\n{done.stdout}", flush=True)
        else:
            print(f"Python {version} ({python}): the demo works, {seconds}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
