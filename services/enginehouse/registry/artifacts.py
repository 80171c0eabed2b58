"""Bring an engine's artifacts into its folder: from an object store or a volume, and only where its tenant may read."""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import PLATFORM_TENANT
from enginehouse.contracts.program import Artifact
from enginehouse.registry.bundle import ENGINE_FILE, InvalidBundle
from enginehouse.registry.disk import check_room

MAX_BYTES = 4 * 1024**3
_MOST_SECONDS = 3_600.0
_PART_BYTES = 4 * 2**20
_FILE = "file://"

_IS_LINK = "it is a link, or lies behind one"

Show = Callable[[str], None]


def forbidden_sources(spec: EngineSpec, allowed: Iterable[str]) -> list[str]:
    """Say which artifacts come from elsewhere than below the URLs that the tenant may fetch from.

    They are fetched with the rights of whoever deploys, which a tenant must not borrow.
    """
    if spec.tenant == PLATFORM_TENANT:
        return []
    places = list(allowed)
    return [
        f"fetch: {spec.tenant} may not fetch from {artifact.source}; "
        + (f"it may from {', '.join(places)}. " if places else "it may from nowhere yet. ")
        + f"'enginehouse tenant fetch-from {spec.tenant} URL' allows all below URL"
        for artifact in spec.fetch
        if not any(_is_below(artifact.source, place) for place in places)
    ]


def _is_below(source: str, place: str) -> bool:
    """Return whether a URL lies below another. One with dots or escapes is below none, because stores read them apart."""
    path = urlsplit(source).path
    if unquote(path) != path or any(part in (".", "..", "") for part in path.split("/")[1:]):
        return False
    return source.startswith(place.rstrip("/") + "/")


def bring(artifacts: Iterable[Artifact], into: Path, copies: Sequence[Path], show: Show) -> None:
    """Write the artifacts below the folder `into`, and tell `show` how far it is. What one of the `copies` has is copied.

    Raise InvalidBundle if one cannot be read, takes too long, or is not what its hash says, or if all are too large,
    and DiskFull.
    Credentials are those of this process: the variables of the object store, such as AWS_ACCESS_KEY_ID.
    """
    left, give_up_at = MAX_BYTES, time.monotonic() + _MOST_SECONDS
    for artifact in artifacts:
        target = into / artifact.file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not any(_copied(artifact, copy / artifact.file, target) for copy in copies):
            _fetch(artifact, target, left, give_up_at, show)
        left -= target.stat().st_size


def _copied(artifact: Artifact, source: Path, target: Path) -> bool:
    """Copy a file of a former deployment; say whether the copy is the artifact.

    Its engine may have changed it since, or put a link, a pipe or a device in its place.
    """
    try:
        check_room(target.parent)
        with _opened(source) as given, target.open("w+b") as file:
            shutil.copyfileobj(given, file, _PART_BYTES)
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256
    except (OSError, ValueError):
        return False


def _fetch(artifact: Artifact, target: Path, most_bytes: int, give_up_at: float, show: Show) -> None:
    digest, done = hashlib.sha256(), 0
    try:
        with target.open("wb") as file:
            for part in _parts(artifact.source):
                check_room(target.parent)
                done += len(part)
                if done > most_bytes:
                    raise _wrong(artifact, f"an engine's files may have {MAX_BYTES / 2**30:.3g} GiB, and it has more")
                if time.monotonic() > give_up_at:
                    raise _wrong(artifact, f"it takes more than {_MOST_SECONDS / 60:g} minutes")
                digest.update(part)
                file.write(part)
                show(f"fetching {artifact.file}: {done / 2**20:,.0f} MiB")
    except (OSError, ValueError) as error:
        raise _wrong(artifact, f"it cannot be read: {_reason(error)}") from None
    if digest.hexdigest() != artifact.sha256:
        # A hash tells what a file holds to who can guess: nothing is told of files of the machine that deploys.
        found = "another SHA-256" if artifact.source.startswith(_FILE) else f"the SHA-256 {digest.hexdigest()}"
        raise _wrong(artifact, f"its content has {found}, where sha256 is {artifact.sha256}")


def _parts(source: str) -> Iterator[bytes]:
    if source.startswith(_FILE):
        return _file_parts(Path(urlsplit(source).path))
    from enginehouse.registry import object_store

    return object_store.parts(source)


def _file_parts(path: Path) -> Iterator[bytes]:
    # Tenants may write to a volume, at any moment: no link there must lead to a file that they may not read. So the file
    # is judged once it is open.
    try:
        with _opened(path) as file:
            if os.path.realpath(f"/proc/self/fd/{file.fileno()}") != str(path):
                raise ValueError(_IS_LINK)
            while part := file.read(_PART_BYTES):
                yield part
    except OSError as error:
        raise (ValueError(_IS_LINK) if error.errno == errno.ELOOP else error) from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read it. Raise OSError for a link, and ValueError for what is no file, such as a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _wrong(artifact: Artifact, reason: str) -> InvalidBundle:
    return InvalidBundle(f"{ENGINE_FILE}: fetch: {artifact.source}: {reason}")


def _reason(error: Exception) -> str:
    """Return the first line of an error of a store, which goes on with the parts of an answer and of the request."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.splitlines()[0].split())[:300] if text else type(error).__name__
