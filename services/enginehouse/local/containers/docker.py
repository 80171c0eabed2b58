"""Give commands to the Docker Engine of this machine, and name and label what a home has there."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginehouse.local.containers.hardening import Sandbox
from enginehouse.local.containers.sweep import sweeping
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard
from enginehouse.local.tools import ToolFailed, run_tool

_FOR_DOCKER = re.compile(r"PATH|HOME|LANG|TMPDIR|DOCKER_\w+|XDG_RUNTIME_DIR|SSH_AUTH_SOCK")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NO_IMAGE = "No such image"
"""What the Docker Engine says of an image that it does not have, and of nothing else."""
_HOME_LABEL = "dev.enginehouse.home"
_APP_LABEL = "dev.enginehouse.app"


def docker_environment() -> dict[str, str]:
    """Return the variables by which the docker command finds the Docker Engine."""
    # The builder that makes an image in containers of the engine's own: BuildKit fetches what a Dockerfile names.
    return {
        **{name: value for name, value in os.environ.items() if _FOR_DOCKER.fullmatch(name)},
        "DOCKER_BUILDKIT": "0",
    }


@dataclass(frozen=True, slots=True)
class Docker:
    """The Docker Engine, as one home uses it. Everything that the home has there carries its label."""

    guard: Guard
    home: Path

    @property
    def prefix(self) -> str:
        """Return how the names of this home's containers, networks and volumes begin."""
        return f"eh-{hashlib.sha256(str(self.home).encode()).hexdigest()[:10]}"

    def labels(self, app: str | None = None) -> list[str]:
        """Return the labels of what belongs to the home, or to one app of it."""
        return [f"{_HOME_LABEL}={self.prefix}", *([f"{_APP_LABEL}={app}"] if app else [])]

    def label_arguments(self, app: str | None = None) -> list[str]:
        """Return the arguments that give something these labels."""
        return [part for label in self.labels(app) for part in ("--label", label)]

    async def __call__(self, *arguments: str, given: str | None = None) -> str:
        """Run the docker command and return what it prints. `given` is its input. Raise ToolFailed."""
        command = ["docker", *arguments]
        return await run_tool(command, self.guard, environment=docker_environment(), cwd=self.home, given=given)

    async def show(self, command: Sequence[str], on_line: Callable[[str], None]) -> None:
        """Run a command whose lines a person wants to see. Raise ToolFailed with its last ones."""
        # What a build says comes on standard output, errors included.
        shell = ["sh", "-c", 'exec "$@" >&2', "sh", *command]

        def plain(line: str) -> None:
            on_line(_COLOUR.sub("", line))

        try:
            await run_tool(shell, self.guard, environment=docker_environment(), cwd=self.home, on_line=plain)
        except ToolFailed as error:
            raise ToolFailed(_COLOUR.sub("", str(error))) from None

    async def has_image(self, image: str) -> bool:
        """Say whether the Docker Engine has an image. Raise ToolFailed if it does not say."""
        try:
            await self("image", "inspect", "--format", "{{.Id}}", image)
        except ToolFailed as error:
            if _NO_IMAGE in str(error):
                return False
            raise
        return True

    async def sweep(self, app: str | None = None) -> None:
        """Remove the containers, networks and volumes of the home, or of one app of it. Raise ToolFailed."""
        await run_tool(sweeping(self.labels(app)), self.guard, environment=docker_environment(), cwd=self.home)

    async def check(self, sandbox: Sandbox | None = None) -> None:
        """Raise LocalError if no Docker Engine answers, or it knows no such sandbox."""
        remedy = (
            "Install and start Docker (Debian and Ubuntu: apt-get install docker.io), or start without --containers."
        )
        if shutil.which("docker") is None:
            raise LocalError("--containers needs Docker, and there is no docker command.", remedy)
        try:
            parts = await self("version", "--format", "{{range .Server.Components}}{{.Name}} {{end}}")
            runtimes = json.loads(await self("info", "--format", "{{json .Runtimes}}"))
        except ToolFailed as error:
            raise LocalError(f"--containers needs Docker, and no Docker Engine answers:\n{error}", remedy) from None
        if "Podman" in parts:
            # It takes the option by which the host has no address on an engine's network, and gives it one all the same.
            raise LocalError(
                "--containers needs Docker, and Podman answers: engines in it could reach this host.", remedy
            )
        if sandbox and sandbox.runtime not in (runtimes or {}):
            raise LocalError(
                f"--sandbox {sandbox} needs the runtime {sandbox.runtime}, and this Docker Engine knows only "
                f"{', '.join(sorted(runtimes or {})) or 'its own'}.",
                f"Install {sandbox.runtime} and tell the Docker Engine of it, which docs/containers.md explains, "
                "or start without --sandbox.",
            )
