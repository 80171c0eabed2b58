"""Keeps room on the disk for what runs, and deletes folders that engines have made read-only."""

import os
import shutil
from pathlib import Path

from enginehouse.contracts.errors import Unavailable

LEAST_FREE_BYTES = 2**30
"""Room that deployments and builds leave on the disk: the ledger and the engines that run may need it."""

BUNDLE_BYTES = 2**20
"""Room for a bundle, so that none is written in part."""


class DiskFull(Unavailable):
    """The disk of the deployment has too little room for what is to be deployed."""

    code = "DISK_FULL"
    advice = "Make room there, and deploy again."


def check_room(folder: Path, least_bytes: int | None = None) -> None:
    """Raise DiskFull if the disk of `folder` has too little room for more files. Default: LEAST_FREE_BYTES."""
    least = LEAST_FREE_BYTES if least_bytes is None else least_bytes
    if free_bytes(folder) < least:
        raise DiskFull(f"less than {least // 2**20} MiB are left on the disk of {folder}")


def free_bytes(folder: Path) -> int:
    """Return how many bytes are free on the disk of `folder`."""
    return shutil.disk_usage(folder).free


def remove_tree(folder: Path) -> None:
    """Delete a folder, if there is one, also with read-only folders in it, as Go's module cache has. Raise OSError."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except PermissionError:
        folder.chmod(0o700)
        for parent, names, _ in os.walk(folder):
            for path in (Path(parent, name) for name in names):
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(folder)
