"""Unpacks an uploaded folder of an engine. Nothing in it can reach outside of the folder, or fill the disk."""

import errno
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO

from enginehouse.contracts.errors import RequestError
from enginehouse.registry.bundle import ENGINE_FILE
from enginehouse.registry.content import MAX_BYTES, MAX_FILES
from enginehouse.registry.disk import DiskFull, check_room

_GZIP = b"\x1f\x8b"
_ZIP = b"PK"
_CHUNK = 1024 * 1024
_PATH_MAX_CHARS = 1_000


class InvalidUpload(RequestError):
    """The upload is not a folder of an engine."""

    code = "INVALID_UPLOAD"
    advice = "Send the engine's folder as a zip or tar.gz: files and folders only, with engine.yaml at its top."


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> Path:
    """Unpack a zip or tar.gz into `folder`, which is new. Return the folder in it that holds engine.yaml.

    That is `folder` itself or the only folder in it. Raise InvalidUpload for anything but files and folders, for paths
    that leave `folder`, and for more than `max_files` files or `max_bytes` bytes, whatever the archive says it holds.
    Raise DiskFull if there is no room for it.
    """
    with archive.open("rb") as file:
        begin = file.read(2)
    if begin not in (_GZIP, _ZIP):
        raise InvalidUpload("The upload is neither a zip nor a tar.gz")
    folder.mkdir(parents=True)
    left, files = max_bytes, 0
    try:
        for name, is_program, content in _tar_files(archive) if begin == _GZIP else _zip_files(archive, max_files):
            files += 1
            if files > max_files:
                raise _too_many(max_files)
            left -= _write(_inside(folder, name), content, left, max_bytes, is_program=is_program)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, lzma.LZMAError, EOFError) as error:
        raise InvalidUpload(f"The upload cannot be unpacked: {error}") from None
    except (NotImplementedError, RuntimeError) as error:  # A compression, or an encryption, that zipfile cannot read.
        raise InvalidUpload(f"The upload cannot be unpacked: {error}") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidUpload(
            f"The upload holds {Path(error.filename).name!r} twice, or as a file and a folder"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"the disk of {folder} is full") from None
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidUpload(f"The name {Path(error.filename).name[:200]!r} is too long") from None
        raise
    return _top(folder)


def _tar_files(archive: Path) -> Iterator[tuple[str, bool, IO[bytes]]]:
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise InvalidUpload(f"{member.name[:200]!r} is a link or a device; only files and folders are taken")
            with closing(content):
                yield member.name, bool(member.mode & stat.S_IXUSR), content


def _zip_files(archive: Path, max_files: int) -> Iterator[tuple[str, bool, IO[bytes]]]:
    with zipfile.ZipFile(archive) as zipped:
        members = [member for member in zipped.infolist() if not member.is_dir()]
        if len(members) > max_files:  # Told before the first is written; a tar has no list of what it holds.
            raise _too_many(max_files)
        for member in members:
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise InvalidUpload(
                    f"{member.filename[:200]!r} is a link or a device; only files and folders are taken"
                )
            with zipped.open(member) as content:
                yield member.filename, bool(mode & stat.S_IXUSR), content


def _too_many(max_files: int) -> InvalidUpload:
    return InvalidUpload(f"The upload holds more than {max_files:,} files")


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    wrong = path.is_absolute() or ".." in path.parts or not path.parts or any(ord(letter) < 32 for letter in name)
    if wrong or "\\" in name or len(name) > _PATH_MAX_CHARS:
        raise InvalidUpload(f"{name[:200]!r} is not a path inside of the folder")
    return folder / path


def _write(path: Path, content: IO[bytes], left: int, max_bytes: int, *, is_program: bool) -> int:
    """Write a file of at most `left` bytes, and return how many it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with path.open("xb") as file:
        while chunk := content.read(_CHUNK):
            check_room(path.parent)
            size += len(chunk)
            if size > left:
                raise InvalidUpload(f"The upload holds more than the {max_bytes:,} bytes that a deployment may have")
            file.write(chunk)
    path.chmod(0o755 if is_program else 0o644)
    return size


def _top(folder: Path) -> Path:
    if (folder / ENGINE_FILE).is_file():
        return folder
    # What macOS and others add beside a folder that is packed.
    inside = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    if len(inside) == 1 and (inside[0] / ENGINE_FILE).is_file():
        return inside[0]
    raise InvalidUpload(f"There is no {ENGINE_FILE} at the top of the upload, nor in its only folder")


def pack(files: dict[str, Path], archive: Path) -> None:
    """Write a zip of these files, by their path in it."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, path in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | (path.stat().st_mode & 0o777)) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, zipped.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, _CHUNK)
