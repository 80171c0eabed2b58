"""Note when memory was refused to a container, and tell its runner: the Docker Engine says so, the engine cannot."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path

from enginehouse.local.containers.docker import Docker
from enginehouse.local.tools import ToolFailed

_AGAIN_SECONDS = 1.0
_FORMAT = "{{.TimeNano}} {{.Actor.Attributes.name}}"


class MemoryWatch:
    """Notes each time that the kernel killed a process of a container because its memory was used up."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        self._files: dict[str, Path] = {}
        self._times: Counter[str] = Counter()

    def follow(self, container: str, file: Path) -> None:
        """Write into `file` when memory was last refused to this container, in seconds since the epoch."""
        file.unlink(missing_ok=True)
        self._files[container] = file
        self._times[container] = 0

    def times(self, folder: Path) -> int:
        """Return how often memory was refused to the container that it was refused most, of those with a file in this folder."""
        return max((self._times[name] for name, file in self._files.items() if file.parent == folder), default=0)

    def forget(self, folder: Path) -> None:
        """Write nothing into this folder any more."""
        self._files = {name: file for name, file in self._files.items() if file.parent != folder}
        self._times = Counter({name: self._times[name] for name in self._files})

    async def run(self) -> None:
        """Listen to the Docker Engine until cancelled."""
        only = ["type=container", "event=oom", f"label={self._docker.labels()[0]}"]
        command = ["docker", "events", *(part for one in only for part in ("--filter", one)), "--format", _FORMAT]
        while True:
            with contextlib.suppress(ToolFailed):  # The Docker Engine is away, and so are the containers.
                await self._docker.show(command, self._note)
            await asyncio.sleep(_AGAIN_SECONDS)

    def _note(self, line: str) -> None:
        nanoseconds, _, container = line.partition(" ")
        if (file := self._files.get(container)) and nanoseconds.isdecimal():
            self._times[container] += 1
            # Replaced as a whole: the runner may read it at this moment.
            draft = file.with_name(f".{file.name}")
            draft.write_text(f"{int(nanoseconds) / 1e9:.6f}")
            draft.replace(file)
