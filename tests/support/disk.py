"""Give a test a disk that is small enough to fill: a tmpfs, if this machine allows the mount."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """The folder of a small disk."""

    folder: Path
    is_mounted: bool
    """False: the folder is on the machine's own disk, which must not be filled."""

    def fill(self) -> None:
        """Fill the disk completely."""
        assert self.is_mounted
        with (self.folder / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024 * 1024))
            except OSError:
                pass

    def free(self) -> None:
        """Free the space that `fill` took."""
        (self.folder / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """Mount a disk of that size on `folder` during the block.

    Without the rights to mount, leave the folder as it is.
    """
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield SmallDisk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)
