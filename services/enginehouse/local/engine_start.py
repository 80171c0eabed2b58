"""How a process of an engine is started, confined as far as this machine allows: by `up`, and by a test of an engine alone."""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.program import CONCURRENCY_VARIABLE, SECRETS_DIR_VARIABLE
from enginehouse.local import environments
from enginehouse.local.confinement import (
    Confinement,
    confinement_of_engine,
    let_all_read,
    limits,
    needed_of_program,
)
from enginehouse.local.environments import Environment
from enginehouse.local.guard import Guard


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """A command with all that it is given."""

    command: list[str]
    environment: dict[str, str]
    limits: dict[str, int]
    """What it may have, by names of the module resource without RLIMIT_."""
    confinement: Confinement | None
    """What it sees as a user of its own. None: it runs as our user."""


@dataclass(frozen=True, slots=True)
class EngineStart:
    """What the processes of one version of an engine are started from."""

    spec: EngineSpec
    """It has a program."""
    source: Path
    environment: Environment | None
    """Its virtual environment."""
    secrets: Path | None
    """Folder with a file for each of its secrets."""
    private: Sequence[Path] | None
    """Folders of which it sees only what it runs from. None: this machine does not confine."""

    async def prepare(self, guard: Guard) -> None:
        """Let its processes read what they run from, if they are users of their own."""
        if self.private is None:
            return
        # The private folders keep everybody out who is not shown these.
        await asyncio.to_thread(let_all_read, self.source)
        if self.environment:
            await environments.share(self.environment, self.private, guard)

    def on_port(self, port: int, home: Path) -> EngineCommand:
        """Return the command of a process that listens on a port of 127.0.0.1 and has the folder `home` to itself."""
        assert self.spec.program
        folder = self.environment.folder if self.environment else None
        command = engine_command(self.spec.program.command, folder)
        variables = engine_environment(self.spec, port, home, folder)
        if self.secrets:
            variables[SECRETS_DIR_VARIABLE] = str(self.secrets)
        confinement = None
        if self.private is None:
            home.mkdir(parents=True, exist_ok=True)
        else:
            needed = [self.source, *needed_of_program(command, variables)]
            if self.environment:
                needed += [self.environment.folder, *self.environment.interpreter.folders()]
            confinement = confinement_of_engine(self.private, needed, home, self.spec.resources, self.secrets)
        own_user = confinement is not None
        return EngineCommand(command, variables, limits(self.spec.resources, own_user=own_user), confinement)


def engine_command(command: list[str], environment: Path | None) -> list[str]:
    """Return the command with the engine's own `python`, unbuffered so that the log shows its last output."""
    if environment and command[0] in ("python", "python3"):
        return [str(environment / "bin" / "python"), "-u", *command[1:]]
    return list(command)


def engine_environment(spec: EngineSpec, port: int, home: Path, environment: Path | None) -> dict[str, str]:
    """Return the whole environment of an engine's process, without variables of the platform or of its starter."""
    own = spec.program.env if spec.program else {}
    platform_bin = Path(sys.executable).parent
    path = [
        folder
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)
        if folder and Path(folder) != platform_bin
    ]
    if environment:
        path.insert(0, str(environment / "bin"))
    given = {"LANG": os.environ.get("LANG", "C.UTF-8"), CONCURRENCY_VARIABLE: str(spec.concurrency)}
    return {**given, **own, "PATH": os.pathsep.join(path), "HOME": str(home), "PORT": str(port)}
