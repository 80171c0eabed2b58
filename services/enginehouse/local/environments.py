"""A virtual environment for each engine: engines' dependencies clash, and none of the platform's belong in there."""

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
"""Beside the requirements, for what those cannot say, such as leaving a dependency out."""


class EnvironmentFailed(LocalError):
    """An engine's requirements cannot be installed."""


def find_uv() -> Path:
    """uv of this project's environment, else on PATH; LocalError otherwise."""
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        return beside
    on_path = shutil.which("uv")
    if on_path:
        return Path(on_path)
    raise LocalError("There is no uv.", "Install it into this environment with 'python -m pip install uv'.")


def needs_environment(spec: EngineSpec) -> bool:
    """Whether the engine is a Python program of ours to install for; others bring what they need."""
    run = spec.run
    return run is not None and (run.command[0] in ("python", "python3") or run.requirements is not None)


def environment_key(*requirements: bytes) -> str:
    """Changes with anything that goes into the environment: Python, the requirements, what engine authors import."""
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
    """The engine's environment, made if it is not there yet; None if it needs none. EnvironmentFailed otherwise."""
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
    """What uv is asked for, to fill the environment in `folder`."""
    # uv takes a wheel it built before if only sources changed, hence the two flags.
    arguments = ["pip", "install", "--python", str(folder / "bin" / "python"), "--refresh-package", "enginehouse"]
    arguments += ["--reinstall-package", "enginehouse", str(root())]
    if requirements:
        arguments += ["-r", str(requirements)]
    if config:
        # By name: of itself uv passes it over in a folder of a project, as those below our checkout are.
        arguments += ["--config-file", str(config)]
    return arguments


async def _build(engine: str, folder: Path, install: list[str], source: Path, guard: Guard, steps: Steps) -> None:
    """Not made under another name and renamed: virtual environments hold their own path."""
    uv = find_uv()
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    key = f"{engine} environment"
    steps.update(key, f"making the environment of {engine}")
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    # The certificates that this machine trusts, as pip does: uv's own list would not know a company's proxy.
    environment = {"UV_SYSTEM_CERTS": "1", **kept}

    def show(line: str) -> None:
        if line.strip():
            steps.update(key, f"environment of {engine}: {line.strip()[:100]}")

    try:
        for arguments in (["venv", "--quiet", "--python", sys.executable, str(folder)], install):
            await run_tool([str(uv), *arguments], guard, environment=environment, cwd=source, on_line=show)
    except ToolFailed as error:
        steps.finish(key, f"environment of {engine} failed", ok=False)
        raise EnvironmentFailed(
            f"The requirements of {engine} cannot be installed:\n{error}", f"Correct what {source} asks for."
        ) from None
    (folder / "complete").touch()
    steps.finish(key, f"environment of {engine} made")


@asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[None]:
    """Hold a lock that other stacks on this machine respect. Polled, so that waiting for it can be interrupted."""
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
