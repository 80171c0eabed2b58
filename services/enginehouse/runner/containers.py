"""Reads what the supervisor says about the containers of the engine: their image, and whether memory was refused to one."""

import asyncio
import time
from functools import cached_property
from pathlib import Path

from enginehouse.contracts.containers import CONTAINERS_FOLDER, IMAGE_FILE, out_of_memory_file

_POLL_SECONDS = 0.02
_IMAGE_MAX_CHARS = 400


class EngineContainers:
    """The containers of the engine, as far as the runner knows of them. Without a supervisor there are none."""

    def __init__(self, folder: Path | None, memory_bytes: int) -> None:
        """`folder` is shared with the supervisor; `memory_bytes` is what the engine may have."""
        self._folder = folder / CONTAINERS_FOLDER if folder else None
        self._allowed = f"{memory_bytes / 2**20:.0f} MiB"

    @cached_property
    def image(self) -> str | None:
        """The image that the containers are made from, by its digest; None if the engine is no container.

        Ask when there is a job: a runner is older than the first container of its engine, which is older than the first job.
        A runner of its own serves each version.
        """
        return self._read(IMAGE_FILE)

    async def why_killed(self, address: str, since: float, wait_seconds: float) -> str | None:
        """Say why a process of the replica at `host:port` was killed after `since`, seconds since the epoch; None if none was.

        Wait for at most `wait_seconds` for the news: it takes another way than the engine's answer.
        """
        if self.image is None:
            return None
        give_up_at = time.monotonic() + wait_seconds
        while not (found := self._refused_at(address) >= since) and time.monotonic() < give_up_at:
            await asyncio.sleep(_POLL_SECONDS)
        return (
            f"it wanted more memory than the {self._allowed} that resources.memory in engine.yaml allows"
            if found
            else None
        )

    def _refused_at(self, address: str) -> float:
        return float(self._read(out_of_memory_file(address)) or 0)

    def _read(self, name: str) -> str | None:
        if self._folder is None:
            return None
        try:
            with (self._folder / name).open() as file:
                return file.read(_IMAGE_MAX_CHARS) or None
        except OSError:
            return None
