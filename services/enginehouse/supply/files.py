"""What is known of an image lies beside the policy, by the image's digest: its signatures, and its newest scan report.

By digest, because it is true of the image whichever engine, tenant or version uses it; and a new report needs no deployment.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from enginehouse.contracts.errors import RequestError

EvidenceKind = Literal["signature", "scan"]
EVIDENCE_MAX_BYTES: dict[EvidenceKind, int] = {"signature": 256 * 1024, "scan": 32 * 1024 * 1024}
_FOLDER = "images"
_DRAFT = ".new-"
_DRAFT_SECONDS = 3_600
"""A draft that is older is written by nobody any longer."""


class InvalidEvidence(RequestError):
    """A signature, a key or a scan report cannot be used."""

    code = "INVALID_EVIDENCE"
    advice = "Pass the file as cosign, trivy or grype wrote it for this digest; docs/supply.md names the commands."


def not_as_written(what: str, error: ValidationError, written_by: str) -> InvalidEvidence:
    """Return the refusal of a file that is no `what`: its first mistake, and who writes what it should be."""
    mistake = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in mistake["loc"]) or "the file"
    return InvalidEvidence(f"it is no {what}: {where}: {mistake['msg'].removeprefix('Value error, ')}. {written_by}")


def read_evidence(path: Path, kind: EvidenceKind) -> bytes:
    """Read a signature or report. Raise InvalidEvidence, or OSError."""
    if path.is_symlink():
        raise InvalidEvidence(f"{path} is a link: put the file itself there")
    return read_bounded(path, EVIDENCE_MAX_BYTES[kind])


def scan_file(folder: Path, digest: str) -> Path:
    """Return where the scan report of an image lies in the folder `supply`. `digest` is `sha256:…`."""
    return _file(folder, digest, "scan")


def signature_files(folder: Path, digest: str) -> list[Path]:
    """Return the files with signatures of an image, the newest first. They stand side by side, whoever has signed."""
    # One that a former version wrote, or a person, lies beside the folder.
    found = [_file(folder, digest, "signature"), *_signatures(folder, digest).glob("*.json")]
    dated = []
    for path in found:
        with contextlib.suppress(FileNotFoundError):
            dated.append((path.lstat().st_mtime_ns, path))
    return [path for _, path in sorted(dated, reverse=True)]


def _file(folder: Path, digest: str, kind: EvidenceKind) -> Path:
    return folder / _FOLDER / f"{digest.replace(':', '-')}.{kind}.json"


def _signatures(folder: Path, digest: str) -> Path:
    return folder / _FOLDER / f"{digest.replace(':', '-')}.signatures"


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a file that is one: no pipe, no device, at most `limit` bytes. Raise InvalidEvidence, or OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidEvidence(f"{path} is not a file")
        content = file.read(limit + 1) if found.st_size <= limit else b""
    if len(content) > limit or found.st_size > limit:
        raise InvalidEvidence(f"{path} has more than the {limit:,} bytes that are read")
    return content


def write_scan(folder: Path, digest: str, content: bytes) -> None:
    """Put the scan report of an image in place of the former one."""
    _write(scan_file(folder, digest), content)


def add_signature(folder: Path, digest: str, content: bytes) -> None:
    """Put a file with signatures of an image beside the others; the same content once."""
    _write(_signatures(folder, digest) / f"{hashlib.sha256(content).hexdigest()}.json", content)


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step. A link in its place is replaced, not followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=_DRAFT, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def sweep_drafts(folder: Path) -> None:
    """Delete what writers that were killed have left in the folder `supply`."""
    for draft in (folder / _FOLDER).rglob(f"{_DRAFT}*"):
        with contextlib.suppress(OSError):  # What cannot be deleted takes nothing from those who start.
            if time.time() - draft.lstat().st_mtime > _DRAFT_SECONDS:
                draft.unlink()
