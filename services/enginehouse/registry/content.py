"""Find the files of an engine's folder that a deployment copies, and hash them to see whether they have changed."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from enginehouse.contracts.engine import CARD_MAX_BYTES, EXAMPLE_FILE
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.json_text import read_json
from enginehouse.contracts.program import ENVIRONMENT_MARK, Artifact, is_left_out
from enginehouse.registry.bundle import InvalidBundle

MAX_BYTES = 4 * 1024**3
MAX_FILES = 50_000


def deployed_files(folder: Path) -> dict[str, Path]:
    """Return the files that belong to a deployment of `folder`, by their path below it, sorted.

    Leave out what tools leave behind: names with a leading dot, caches, virtual environments. Follow links, because a
    copy must not depend on anything outside. Raise InvalidBundle for a link that leaves the folder, and for a folder
    that is too large.
    """
    top = folder.resolve()
    try:
        found = {path.relative_to(top).as_posix(): path for path in _files(top, (top,))}
        _check_size(folder, found)
    except OSError as error:
        raise InvalidBundle(f"{error.filename or folder} cannot be read: {error.strerror}") from None
    return dict(sorted(found.items()))


def read_example(folder: Path) -> str:
    """Return the author's example, as JSON text; nothing if there is none, or none that a card could carry."""
    path = deployed_files(folder).get(EXAMPLE_FILE)
    if path is None or path.stat().st_size > CARD_MAX_BYTES:
        return ""
    try:
        return json.dumps(read_json(path.read_bytes(), EXAMPLE_FILE)) + "\n"
    except RequestError:
        return ""  # Whoever tries the version says so.


def content_hash(folder: Path, artifacts: Sequence[Artifact] = ()) -> str:
    """Return a hash of all deployed files of `folder` and their names, as if the artifacts had been brought there."""
    return files_hash(deployed_files(folder), {artifact.file: artifact.sha256 for artifact in artifacts})


def files_hash(files: Mapping[str, Path], known: Mapping[str, str] | None = None) -> str:
    """Return a hash of these files, the names that they are given, and which of them are programs.

    `known` are the SHA-256 of files that are not here, by name; they are no programs.
    """
    digest, known = hashlib.sha256(), known or {}
    for name in sorted({*files, *known}):
        runs, content = (False, known[name]) if name in known else _file_hash(files[name])
        digest.update(f"{name}\0{runs}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _file_hash(path: Path) -> tuple[bool, str]:
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256")
        return bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR), content.hexdigest()


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files below `folder`. `above` are the real folders on the way to it, from the top one."""
    for path in folder.iterdir():
        if is_left_out(path.name) or not path.exists():
            continue
        real = path.resolve()
        if not real.is_relative_to(above[0]):
            raise InvalidBundle(
                f"{path} is a link to {real}, outside of the engine's folder, which alone is deployed. "
                "Copy what it points to into the folder."
            )
        if real in above:
            raise InvalidBundle(f"{path} is a link to {real}, a folder that holds it. Remove the link.")
        if real.is_dir() and not (real / ENVIRONMENT_MARK).exists():
            yield from _files(path, (*above, real))
        elif real.is_file():  # Anything else is skipped, because reading a pipe would never end.
            yield path


def _check_size(folder: Path, files: dict[str, Path]) -> None:
    if len(files) > MAX_FILES:
        raise InvalidBundle(f"{folder} holds {len(files):,} files; a deployment may have {MAX_FILES:,}.")
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise InvalidBundle(
            f"{folder} holds {_in_gib(sum(sizes.values()))}; a deployment may have {_in_gib(MAX_BYTES)}. The largest "
            f"file is {largest} ({_in_gib(sizes[largest])}). Move what the engine does not need out of the folder, and "
            "large models into a package that requirements.txt names."
        )


def _in_gib(size: int) -> str:
    return f"{size / 1024**3:.2f} GiB"
