"""Takes an upload of an engine's folder: onto the disk as it comes, then unpacked in a bounded process."""

import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from fastapi import Request

from enginehouse.checkers import TooCostly
from enginehouse.contracts.errors import InputTooLarge, UnsupportedMediaType
from enginehouse.registry.http.dependencies import Registry, in_thread
from enginehouse.registry.unpack import InvalidUpload, unpack
from enginehouse.web.requests import refuse_encoded

UPLOAD_TYPES = (
    "application/zip",
    "application/gzip",
    "application/x-gzip",
    "application/x-tar+gzip",
    "application/octet-stream",
)
_UNPACK_CPU_SECONDS = 300.0


class FolderTooLarge(InputTooLarge):
    """The upload has more bytes than the registry takes."""

    advice = (
        "Move what the engine does not need out of its folder, and large models into a package of its requirements.txt."
    )


@contextlib.asynccontextmanager
async def uploaded_folder(request: Request, registry: Registry) -> AsyncIterator[Path]:
    """Give the folder that the body of a request holds, until the block ends.

    Raise InvalidUpload, UnsupportedMediaType or FolderTooLarge, which say what of it is wrong.
    """
    _check_type(request)
    place = registry.settings.work_dir / secrets.token_hex(8)
    place.mkdir(parents=True)
    try:
        archive, folder = place / "upload", place / "folder"
        await _save(request, archive, registry.settings.upload_max_bytes)
        async with registry.uploads:
            try:
                top = await registry.checkers.run("uploads", _UNPACK_CPU_SECONDS, unpack, archive, folder)
            except TooCostly:
                raise InvalidUpload("Unpacking the upload took too much time or memory") from None
        yield top
    finally:
        await in_thread(shutil.rmtree, place, ignore_errors=True)


def _check_type(request: Request) -> None:
    refuse_encoded(request)
    given = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if given not in UPLOAD_TYPES:
        raise UnsupportedMediaType(f"Content-Type must be {' or '.join(UPLOAD_TYPES[:2])}, not {given[:60]!r}")


async def _save(request: Request, archive: Path, limit: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise FolderTooLarge(f"The upload has {declared} bytes; {limit} are allowed")
    size = 0
    async with await anyio.open_file(archive, "wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise FolderTooLarge(f"The upload has more than the {limit} bytes that are allowed")
            await file.write(chunk)
