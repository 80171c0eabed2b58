"""Say what an engine's process sees and may do, where it runs as a user of its own."""

import asyncio
import contextlib
import os
import pwd
import random
import shutil
import socket
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginehouse.contracts.engine import Resources
from enginehouse.local.confine import SCRATCH, confined
from enginehouse.local.daprd import cache_folder
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard, spare_user
from enginehouse.local.tools import ToolFailed, run_tool

_LOWEST_USER, _HIGHEST_USER = 2_000_300_000, 2_147_000_000
"""No tool gives users of this range to people, services or containers. Engines have the even ones: see `spare_user`."""
_OPEN_FILES = 8_192
_PROCESSES = 1_024
_FILE_BYTES = 4 * 2**30
_NODES_OF_GPUS = ("nvidia*", "kfd", "dri/renderD*")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a process sees of this machine: everything that every user may read, but nothing below `hidden`."""

    hidden: Sequence[Path]
    """Folders that look empty to it."""
    shown: Sequence[Path]
    """Folders and files that it may read all the same, below folders that are hidden."""
    home: Path
    """A folder that it may write to. It is not on the disk."""
    scratch_bytes: int
    """Size of its home and its folders for temporary files together."""
    secrets: Path | None = None
    """Folder whose files it gets as files of its own."""
    groups: Sequence[int] = ()

    def plan(self, user: int) -> dict[str, Any]:
        """Return what `confine.py` is told to run a process as this user."""
        return {
            "user": user,
            "groups": list(self.groups),
            "hidden": [str(path) for path in self.hidden],
            "shown": [str(path) for path in self.shown],
            "home": str(self.home),
            "scratch_bytes": self.scratch_bytes,
            "secrets": str(self.secrets) if self.secrets else None,
        }


def limits(resources: Resources, *, own_user: bool = False) -> dict[str, int]:
    """Return the limits of an engine's process. That of processes counts all of a user: it needs a user of its own."""
    memory = resources.memory_bytes
    found = {"DATA": memory, "NOFILE": _OPEN_FILES, "FSIZE": max(memory, _FILE_BYTES), "CORE": 0}
    return {**found, "NPROC": _PROCESSES} if own_user else found


def private_folders(*own: Path) -> list[Path]:
    """Return the folders that engines must not look into: `own`, such as the deployment's; the starter's, the caches."""
    found = {path.resolve() for path in (*own, Path.home(), Path("/root"), cache_folder()) if path.is_dir()}
    return _outermost(path for path in found if path != Path("/"))


def confinement_of_engine(
    private: Sequence[Path],
    needed: Iterable[Path],
    home: Path,
    resources: Resources,
    secrets: Path | None = None,
) -> Confinement:
    """Return the confinement of an engine that needs these folders and files, of which those that are not private are there anyway."""
    covered = [*private, *map(Path, SCRATCH)]
    usable = {path for path in needed if path.exists() and not any(one.is_relative_to(path) for one in private)}
    return Confinement(
        hidden=[path for path in private if not is_below(path, map(Path, SCRATCH))],
        shown=_outermost(path for path in usable if is_below(path, covered)),
        home=home,
        scratch_bytes=resources.memory_bytes,
        secrets=secrets,
        groups=_groups_of_gpus() if resources.gpu else (),
    )


def needed_of_program(command: Sequence[str], variables: Mapping[str, str]) -> list[Path]:
    """Return what runs the command: itself and the programs on its PATH."""
    path = variables.get("PATH", "")
    found = [folder for entry in path.split(os.pathsep) if entry for folder in with_libraries(Path(entry))]
    program = shutil.which(command[0], path=path) if os.sep not in command[0] else command[0]
    if program and os.path.isabs(program):
        found += [Path(program), Path(program).resolve()]
    return found


def let_all_read(folder: Path) -> None:
    """Let every user read what is below the folder. Whether somebody gets there is up to the folders above it.

    The folder itself is the last: where all may read it, this has come to its end.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            with contextlib.suppress(FileNotFoundError):
                mode = os.lstat(path).st_mode
                runs = 0o111 if mode & stat.S_IXUSR else 0
                if not stat.S_ISLNK(mode) and mode & (0o444 | runs) != 0o444 | runs:
                    os.chmod(path, stat.S_IMODE(mode) | 0o444 | runs)


async def why_not_confined(guard: Guard) -> str | None:
    """Return why engines cannot be users of their own here. None: they can, because one was just tried."""
    if sys.platform != "linux":
        return "only Linux has what that needs"
    if os.geteuid() != 0:
        return "only root can start processes of another user"
    confinement = Confinement([], [], Path(SCRATCH[0], "enginehouse"), 2**20)
    command, environment = confined(["true"], {"PATH": os.defpath}, {}, confinement.plan(_LOWEST_USER))
    try:
        await run_tool(command, guard, environment=environment, cwd=Path("/"))
    except ToolFailed as error:
        return f"this machine does not let root do it: {str(error).strip().removeprefix('cannot start true: ')}"
    return None


class UserPool:
    """Hands out users that nobody has. No two pools on this machine hand out the same one at a time.

    A user is held by a socket with its number in its name, which is in no folder; the kernel closes it when this process dies.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    async def take(self) -> int:
        """Return the number of a user, and of a group, held until `release`."""
        for user in (random.randrange(_LOWEST_USER + 2, _HIGHEST_USER, 2) for _ in range(100)):  # noqa: S311
            if not await asyncio.to_thread(_is_known, user, spare_user(user)) and self._hold(user):
                return user
        raise LocalError(
            f"no user is free between {_LOWEST_USER} and {_HIGHEST_USER}", "Remove accounts of this range."
        )

    def release(self, user: int) -> None:
        """Give a user back, of which no process is left."""
        self._held.pop(user).close()

    def _hold(self, user: int) -> bool:
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0enginehouse-user-{user}")
        except OSError:
            holder.close()
            return False
        self._held[user] = holder
        return True


def _is_known(*users: int) -> bool:
    """Return whether one of the users has a name on this machine. A directory service may take its time to say so."""
    for user in users:
        with contextlib.suppress(KeyError):
            pwd.getpwuid(user)
            return True
    return False


def with_libraries(programs: Path) -> list[Path]:
    """Return a folder of programs with the folders of their libraries beside it."""
    beside = [programs.with_name(name) for name in ("lib", "lib64")] if programs.name == "bin" else []
    return [programs, *beside]


def _groups_of_gpus() -> list[int]:
    """Return the groups that may use the GPUs of this machine."""
    return sorted({node.stat().st_gid for pattern in _NODES_OF_GPUS for node in Path("/dev").glob(pattern)} - {0})


def is_below(path: Path, folders: Iterable[Path]) -> bool:
    """Return whether a path is one of the folders, or below one."""
    return any(path.is_relative_to(folder) for folder in folders)


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that lie below none of the others, sorted."""
    found: list[Path] = []
    for path in sorted(set(paths)):
        if not is_below(path, found):
            found.append(path)
    return found
