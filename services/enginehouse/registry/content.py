"""Hash the content of an engine's folder. A deployment compares hashes to see whether the code has changed."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def content_hash(folder: Path) -> str:
    """Return a hash of all files in `folder` and their names. Leftovers of tools (caches, dot files) do not count."""
    digest = hashlib.sha256()
    for path in sorted(_files(folder)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        digest.update(f"{path.relative_to(folder)}\0{content.hexdigest()}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_ignored(name)]
        # Links to files are followed; anything that is not a file is skipped, because reading a pipe would never end.
        yield from (path for name in files if not _is_ignored(name) and (path := Path(place, name)).is_file())


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.endswith(".pyc")
