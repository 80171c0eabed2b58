"""Make the base image before the first start: `make base-image`."""

import asyncio
import sys
from pathlib import Path

from enginehouse.local.containers.base_image import base_image
from enginehouse.local.containers.docker import Docker
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard


class _Lines:
    """Prints steps as lines."""

    def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
        """Print what is being done."""
        sys.stderr.write(f"{text}\n")

    def finish(self, key: str, text: str, ok: bool = True) -> None:
        """Print that it is done."""
        sys.stderr.write(f"{text}\n")


async def main() -> None:
    """Make the image for the Python that runs this. Exit with the reason if it cannot be made."""
    guard = Guard()
    try:
        docker = Docker(guard, Path.cwd())
        await docker.check()
        made = await base_image(docker, None, _Lines())
        sys.stdout.write(f"{made.name}: Python {made.python}\n")
    except LocalError as error:
        sys.exit(str(error))
    finally:
        guard.close()


if __name__ == "__main__":
    asyncio.run(main())
