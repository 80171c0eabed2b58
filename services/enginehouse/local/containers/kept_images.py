"""Remove images that we built and nothing of a home is made from any more: of former versions, and of removed engines."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.images import PACKAGES_LABEL, PACKAGES_NAME, EngineImage
from enginehouse.local.tools import ToolFailed


@dataclass(frozen=True, slots=True)
class KeptImages:
    """The image that each app of a home was last made from. Images that others made or pulled are never removed."""

    docker: Docker
    folder: Path
    """Has a file for each app with the name of its image."""

    async def keep(self, app: str, image: EngineImage) -> None:
        """Note the image that an app is made from now, and remove the one that it was made from before."""
        before = self._noted(app)
        self.folder.mkdir(exist_ok=True)
        (self.folder / app).write_text(image.name if image.is_ours else "")
        if before != image.name:
            await self._remove(before)

    async def forget(self, app: str) -> None:
        """Remove the image of an app that is removed."""
        before = self._noted(app)
        (self.folder / app).unlink(missing_ok=True)
        await self._remove(before)

    def _noted(self, app: str) -> str:
        try:
            return (self.folder / app).read_text()
        except OSError:
            return ""

    async def _remove(self, image: str) -> None:
        """Remove an image and the packages below it, unless others are made from them: then Docker or a note says so."""
        noted = await asyncio.to_thread(lambda: {file.read_text() for file in self.folder.glob("*")})
        if not image or image in noted:
            return
        with contextlib.suppress(ToolFailed):  # A container of another home is made from it, or somebody removed it.
            label = f'{{{{index .Config.Labels "{PACKAGES_LABEL}"}}}}'
            packages = (await self.docker("image", "inspect", "--format", label, image)).strip()
            await self.docker("image", "rm", image)
            others = await self.docker("image", "ls", "--quiet", "--filter", f"label={PACKAGES_LABEL}={packages}")
            if packages.startswith(f"{PACKAGES_NAME}:") and not others.strip():
                await self.docker("image", "rm", packages)
