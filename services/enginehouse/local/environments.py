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
from enginehouse.local.progress import Progress
from enginehouse.local.tools import ToolFailed, run_tool


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


def environment_key(requirements: bytes) -> str:
    """Changes with anything that goes into the environment: Python, the requirements, what engine authors import."""
    digest = hashlib.sha256(f"{sys.version}\n{sys.executable}\n".encode())
    files = [root() / "pyproject.toml"]
    for folder in source_folders("engine", "contracts"):
        files += sorted(folder.rglob("*.py"))
    for file in files:
        digest.update(str(file.relative_to(root())).encode() + b"\0" + file.read_bytes() + b"\0")
    digest.update(requirements)
    return digest.hexdigest()[:24]


async def prepare(spec: EngineSpec, source: Path, guard: Guard, progress: Progress) -> Path | None:
    """The engine's environment, made if it is not there yet; None if it needs none. EnvironmentFailed otherwise."""
    if spec.run is None or not needs_environment(spec):
        return None
    requirements = _requirements(source, spec.run.requirements)
    try:
        content = requirements.read_bytes() if requirements else b""
    except OSError as error:
        raise EnvironmentFailed(
            f"{requirements}: {error.strerror}", "Name an existing file in run.requirements."
        ) from None
    folder = cache_folder() / "environments" / environment_key(content)
    async with _only_one(folder.with_name(folder.name + ".lock")):
        if not (folder / "complete").exists():
            await _build(spec.id, folder, requirements, guard, progress)
    return folder


def _requirements(source: Path, name: str | None) -> Path | None:
    return source / name if name else None


async def _build(engine: str, folder: Path, requirements: Path | None, guard: Guard, progress: Progress) -> None:
    """Not made under another name and renamed: virtual environments hold their own path."""
    uv, python = find_uv(), folder / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    key = f"{engine} environment"
    progress.update(key, f"making the environment of {engine}")
    # uv takes a wheel it built before if only sources changed, hence the two flags.
    install = ["pip", "install", "--python", str(python), "--refresh-package", "enginehouse"]
    install += ["--reinstall-package", "enginehouse", str(root())]
    if requirements:
        install += ["-r", str(requirements)]
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    # The certificates that this machine trusts, as pip does: uv's own list would not know a company's proxy.
    environment = {"UV_SYSTEM_CERTS": "1", **kept}
    cwd = requirements.parent if requirements else root()

    def show(line: str) -> None:
        if line.strip():
            progress.update(key, f"environment of {engine}: {line.strip()[:100]}")

    try:
        for arguments in (["venv", "--quiet", "--python", sys.executable, str(folder)], install):
            await run_tool([str(uv), *arguments], guard, environment=environment, cwd=cwd, on_line=show)
    except ToolFailed as error:
        progress.finish(key, f"environment of {engine} failed", ok=False)
        raise EnvironmentFailed(
            f"The requirements of {engine} cannot be installed:\n{error}", f"Correct {requirements or root()}."
        ) from None
    (folder / "complete").touch()
    progress.finish(key, f"environment of {engine} made")


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
