"""Make a virtual environment for each engine: engines' dependencies clash, and the platform's do not belong there."""

import asyncio
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.local.checkout import root, source_folders
from enginehouse.local.daprd import cache_folder
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard
from enginehouse.local.steps import Steps
from enginehouse.local.tools import ToolFailed, run_tool

_UV_CONFIG = "uv.toml"
"""Settings of uv beside the requirements, for example to leave a dependency out."""


class EnvironmentFailed(LocalError):
    """An engine's requirements cannot be installed."""


def find_uv() -> Path:
    """Return the uv of this project's environment or of PATH. Raise LocalError if there is none."""
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        return beside
    on_path = shutil.which("uv")
    if on_path:
        return Path(on_path)
    raise LocalError("There is no uv.", "Install it into this environment with 'python -m pip install uv'.")


def needs_environment(spec: EngineSpec) -> bool:
    """Return whether the engine is a Python program that needs an environment. Other engines bring what they need."""
    run = spec.run
    return run is not None and (run.command[0] in ("python", "python3") or run.requirements is not None)


def environment_key(*requirements: bytes) -> str:
    """Return a key that changes with the environment's content: Python, the requirements, the engine package."""
    digest = hashlib.sha256(f"{sys.version}\n{sys.executable}\n".encode())
    files = [root() / "pyproject.toml"]
    for folder in source_folders("engine", "contracts"):
        files += sorted(folder.rglob("*.py"))
    for file in files:
        digest.update(str(file.relative_to(root())).encode() + b"\0" + file.read_bytes() + b"\0")
    for content in requirements:
        digest.update(content)
    return digest.hexdigest()[:24]


async def prepare(spec: EngineSpec, source: Path, guard: Guard, steps: Steps) -> Path | None:
    """Return the engine's environment, made if it is missing; None if it needs none. May raise EnvironmentFailed."""
    if spec.run is None or not needs_environment(spec):
        return None
    requirements = _requirements(source, spec.run.requirements)
    config = source / _UV_CONFIG if (source / _UV_CONFIG).is_file() else None
    try:
        contents = [file.read_bytes() for file in (requirements, config) if file]
    except OSError as error:
        raise EnvironmentFailed(
            f"{error.filename}: {error.strerror}", "Name an existing file in run.requirements."
        ) from None
    folder = cache_folder() / "environments" / environment_key(*contents)
    async with _only_one(folder.with_name(folder.name + ".lock")):
        if not (folder / "complete").exists():
            await _build(spec.id, folder, install_arguments(folder, requirements, config), source, guard, steps)
    return folder


def _requirements(source: Path, name: str | None) -> Path | None:
    return source / name if name else None


def install_arguments(folder: Path, requirements: Path | None, config: Path | None) -> list[str]:
    """Return uv's arguments that fill the environment in `folder`."""
    # Two flags, because uv reuses a wheel that it built before even if the sources have changed.
    arguments = ["pip", "install", "--python", str(folder / "bin" / "python"), "--refresh-package", "enginehouse"]
    arguments += ["--reinstall-package", "enginehouse", str(root()), "--constraints", str(_constraint(folder))]
    if requirements:
        arguments += ["-r", str(requirements)]
    if config:
        # Named explicitly: uv ignores it below a project folder, and our own engines lie below our checkout.
        arguments += ["--config-file", str(config)]
    return arguments


def _constraint(folder: Path) -> Path:
    return folder / "constraint.txt"


async def _build(engine: str, folder: Path, install: list[str], source: Path, guard: Guard, steps: Steps) -> None:
    """Build the environment in its final place: a virtual environment holds its own path, so it cannot be renamed."""
    uv = find_uv()
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    key = f"{engine} environment"
    steps.update(key, f"making the environment of {engine}")
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    # Use the certificates that this machine trusts, as pip does: uv's own list does not know a company's proxy.
    environment = {"UV_SYSTEM_CERTS": "1", **kept}

    def show(line: str) -> None:
        if line.strip():
            steps.update(key, f"environment of {engine}: {line.strip()[:100]}")

    async def run_uv(*arguments: str) -> None:
        await run_tool([str(uv), *arguments], guard, environment=environment, cwd=source, on_line=show)

    try:
        await run_uv("venv", "--quiet", "--python", sys.executable, str(folder))
        # Whatever asks for enginehouse gets the checkout. On an index the name is free for anybody to take, and an
        # `override-dependencies` in a uv.toml would otherwise fetch it from there.
        _constraint(folder).write_text(f"enginehouse @ {root().as_uri()}\n")
        await run_uv(*install)
    except ToolFailed as error:
        steps.finish(key, f"environment of {engine} failed", ok=False)
        raise EnvironmentFailed(
            f"The requirements of {engine} cannot be installed:\n{error}", f"Correct what {source} asks for."
        ) from None
    (folder / "complete").touch()
    steps.finish(key, f"environment of {engine} made")


@asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[None]:
    """Hold a lock that other stacks on this machine respect. Poll for it, so that waiting can be interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.1)
        yield
    finally:
        os.close(descriptor)
