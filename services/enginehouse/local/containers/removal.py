"""Remove what an engine has at the Docker Engine, and go on trying where it cannot be removed at once."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable

import structlog

from enginehouse.local.containers.docker import Docker
from enginehouse.local.tools import ToolFailed

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 5.0


class ContainerRemoval:
    """Removes the containers, the network and the volumes of apps. A container whose engine was killed may still run."""

    def __init__(self, docker: Docker, on_change: Callable[[], None]) -> None:
        """`on_change` is called when what is left has changed."""
        self._docker, self._on_change = docker, on_change
        self._left: dict[str, str] = {}
        self._removing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held so that nothing which an app gets afterwards is removed as well."""

    async def remove(self, app: str) -> None:
        """Remove everything of an app. Raise ToolFailed if that fails; then `run` tries again."""
        async with self._removing[app]:
            await self._sweep(app)

    def left(self) -> dict[str, str]:
        """Return which apps have something left, and what the Docker Engine says, one line each."""
        return {app: f"its containers cannot be removed: {said}" for app, said in self._left.items()}

    async def run(self) -> None:
        """Try again what has failed, until cancelled."""
        while True:
            await asyncio.sleep(_AGAIN_SECONDS)
            await asyncio.gather(*(self._again(app) for app in list(self._left)))

    async def _again(self, app: str) -> None:
        async with self._removing[app]:
            if app not in self._left:
                return  # Removed meanwhile, and perhaps started anew.
            with contextlib.suppress(ToolFailed):
                await self._sweep(app)
                log.info(f"No container of {app} is left any longer", action="containers_removed")

    async def _sweep(self, app: str) -> None:
        try:
            await self._docker.sweep(app)
        except ToolFailed as error:
            self._left[app] = str(error).strip().rpartition("\n")[2]
            self._on_change()
            raise
        if self._left.pop(app, None) is not None:
            self._on_change()
