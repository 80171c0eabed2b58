"""Make a virtual environment for each engine: engines' dependencies clash, and the platform's do not belong there."""

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.program import Program
from enginehouse.file_locks import only_one
from enginehouse.local.checkout import root, source_folders
from enginehouse.local.confinement import is_below, let_all_read
from enginehouse.local.daprd import cache_folder
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard
from enginehouse.local.interpreters import Interpreter, find_interpreter, find_uv, uv_environment
from enginehouse.local.steps import Steps, tools_lines
from enginehouse.local.tools import ToolFailed, run_tool
from enginehouse.registry.content import files_hash
from enginehouse.registry.disk import LEAST_FREE_BYTES, free_bytes
from enginehouse.registry.requirements import UV_CONFIG, environment_files

_INPUTS = "inputs"
"""Folder in an environment with exactly the files that it was made from."""
_SHARED = "shared"
"""File in an environment that other users can work with."""
_TESTS = r"/tests?/"
_LOOK_SECONDS = 5.0
_MOST_SECONDS = 3_600.0
_MOST_BYTES = 20 * 2**30


@dataclass(frozen=True, slots=True)
class Environment:
    """An engine's virtual environment and what it was made from."""

    folder: Path
    interpreter: Interpreter
    """As it was found on this machine. Packages may write another one into the environment."""


class EnvironmentFailed(LocalError):
    """An engine's requirements cannot be installed."""


def needs_environment(spec: EngineSpec) -> bool:
    """Return whether the engine is a Python program that needs an environment. Other engines bring what they need."""
    return spec.program is not None and spec.program.is_python


def needs_our_package(spec: EngineSpec) -> bool:
    """Return whether the engine may be made with the engine package. A ready-made server is not, and may clash with it."""
    return spec.protocol == "predict"


def environment_key(
    interpreter: Interpreter,
    program: Program,
    files: dict[str, Path],
    *,
    with_ours: bool = True,
) -> str:
    """Return a key that changes with everything that an environment is made from.

    That is the interpreter, the engine package (whose name the requirements may hold also where it is not installed
    anyway), and the files that the requirements consist of.
    """
    made_from = (interpreter.identity, program.requirements, program.wheel, program.extra, files_hash(files), with_ours)
    digest = hashlib.sha256(repr(made_from).encode())
    ours = [root() / "pyproject.toml"]
    for folder in source_folders("engine", "contracts"):
        ours += sorted(folder.rglob("*.py"))
    for file in ours:
        digest.update(str(file.relative_to(root())).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


async def prepare(spec: EngineSpec, source: Path, guard: Guard, steps: Steps) -> Environment | None:
    """Return the engine's environment, made if it is missing; None if it needs none.

    Raise EnvironmentFailed, InvalidBundle or LocalError if it cannot be made.
    """
    program = spec.program
    if program is None or not program.is_python:
        return None
    interpreter = await find_interpreter(spec, guard, steps)
    files = await asyncio.to_thread(environment_files, source, program.requirements, program.wheel)
    make_key = partial(environment_key, with_ours=needs_our_package(spec))
    key = await asyncio.to_thread(make_key, interpreter, program, files)
    folder = cache_folder() / "environments" / key
    async with only_one(folder.with_name(folder.name + ".lock")):
        if not (folder / "complete").exists():
            await _build(spec, folder, interpreter, files, guard, steps)
    return Environment(folder, interpreter)


async def share(environment: Environment, private: Sequence[Path], guard: Guard) -> None:
    """Prepare an environment, once, for engines of other users: they read it, and may not write into it.

    What Python would compile at each start is compiled. An interpreter below folders that are `private` becomes readable as
    well. This works as our user, so nothing in the environment is run or believed: a wheel may replace its `pyvenv.cfg`,
    by which its Python would load another standard library.
    """
    folder, interpreter = environment.folder, environment.interpreter
    async with only_one(folder.with_name(folder.name + ".lock")):
        if not (folder / _SHARED).exists():
            command = [interpreter.path, "-I", "-S", "-m", "compileall", "-q", "-j", "0", "-x", _TESTS]
            with contextlib.suppress(ToolFailed):  # Packages may hold files that are no Python of this version.
                await run_tool([*command, str(folder / "lib")], guard, environment={}, cwd=folder)
            await asyncio.to_thread(let_all_read, folder)
            (folder / _SHARED).touch(0o644)
    for part in interpreter.folders():
        if part.is_dir() and is_below(part, private) and part.stat().st_mode & 0o005 != 0o005:
            await asyncio.to_thread(let_all_read, part)


def install_arguments(folder: Path, program: Program, files: Collection[str], *, with_ours: bool = True) -> list[str]:
    """Return uv's arguments that fill the environment in `folder`; `with_ours`: with the engine package."""
    # Two flags, because uv reuses a wheel that it built before even if the sources have changed.
    arguments = ["pip", "install", "--python", str(folder / "bin" / "python"), "--refresh-package", "enginehouse"]
    arguments += ["--reinstall-package", "enginehouse", "--constraints", str(_constraint(folder))]
    if with_ours:
        arguments += [f"{root()}[{program.extra}]" if program.extra else str(root())]
    if program.wheel:
        arguments += [f"./{program.wheel}"]
    if program.requirements:
        arguments += ["-r", program.requirements]
    if UV_CONFIG in files:
        # Named explicitly: uv would prefer the configuration of a project around the folder.
        arguments += ["--config-file", UV_CONFIG]
    return arguments


def _constraint(folder: Path) -> Path:
    return folder / "constraint.txt"


async def _build(
    spec: EngineSpec, folder: Path, interpreter: Interpreter, files: dict[str, Path], guard: Guard, steps: Steps
) -> None:
    """Build the environment in its final place: a virtual environment holds its own path, so it cannot be renamed."""
    uv, program = find_uv(), spec.program
    assert program
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    key = f"{spec.id} environment"
    steps.update(key, f"making the environment of {spec.id}")
    show = tools_lines(steps, key, f"environment of {spec.id}")

    async def run_uv(arguments: list[str], cwd: Path) -> None:
        await run_tool([str(uv), *arguments], guard, environment=uv_environment(), cwd=cwd, on_line=show)

    async def build() -> None:
        await run_uv(["venv", "--quiet", "--no-project", "--python", interpreter.path, str(folder)], folder.parent)
        # Installed from a copy of exactly what the key was computed from: anything else is missing, and cannot make two
        # environments of one key differ. Kept, because `-e` installs links into it.
        await asyncio.to_thread(copy_files, files, folder / _INPUTS)
        # Whatever asks for enginehouse gets the checkout. On an index the name is free for anybody to take, and an
        # `override-dependencies` in a uv.toml would otherwise fetch it from there.
        _constraint(folder).write_text(f"enginehouse @ {root().as_uri()}\n")
        with_ours = needs_our_package(spec)
        if program.requirements or with_ours:
            arguments = install_arguments(folder, program, files, with_ours=with_ours)
            await run_uv(arguments, folder / _INPUTS)

    try:
        await within_bounds(build(), folder)
    except ToolFailed as error:
        shutil.rmtree(folder, ignore_errors=True)
        steps.finish(key, f"environment of {spec.id} failed", ok=False)
        raise EnvironmentFailed(
            f"The requirements of {spec.id} cannot be installed on Python {interpreter.version}:\n{error}",
            f"Correct {program.requirements or program.wheel or 'the environment'} in the engine's folder and deploy it again, "
            "or name another Python in its engine.yaml.",
        ) from None
    (folder / "complete").touch()
    steps.finish(key, f"environment of {spec.id} made")


async def within_bounds(build: Coroutine[Any, Any, None], folder: Path) -> None:
    """Await the build. End it with ToolFailed if it takes too long or too much of the disk: packages run their own code."""
    building = asyncio.ensure_future(build)
    give_up_at = asyncio.get_running_loop().time() + _MOST_SECONDS
    try:
        while not (await asyncio.wait({building}, timeout=_LOOK_SECONDS))[0]:
            if asyncio.get_running_loop().time() > give_up_at:
                raise ToolFailed(f"it has taken more than the {_MOST_SECONDS / 60:g} minutes that are allowed")
            if await asyncio.to_thread(_size, folder) > _MOST_BYTES:
                raise ToolFailed(f"it takes more than the {_MOST_BYTES // 2**20} MiB that are allowed")
            if free_bytes(folder.parent) < LEAST_FREE_BYTES:
                raise ToolFailed(f"less than {LEAST_FREE_BYTES // 2**20} MiB are left on the disk of {folder.parent}")
        await building
    finally:
        building.cancel()
        await asyncio.wait({building})


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def copy_files(files: dict[str, Path], folder: Path) -> None:
    """Make `folder`, with these files in it, by path."""
    folder.mkdir()
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / name)
