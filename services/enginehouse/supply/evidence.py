"""Take signatures and scan reports of an image. None undoes another: signatures stand side by side, and a newer report stays."""

from collections.abc import Iterable
from pathlib import Path

from enginehouse.supply.decide import Supply
from enginehouse.supply.files import (
    EvidenceKind,
    InvalidEvidence,
    add_signature,
    read_evidence,
    scan_file,
    signature_files,
    write_scan,
)
from enginehouse.supply.policy import check_digest
from enginehouse.supply.scans import Report, read_report
from enginehouse.supply.signatures import Key, Signature, read_signatures

SIGNATURES_MAX = 20
"""Most files with signatures that are kept of an image."""


def put_evidence(folder: Path, digest: str, kind: EvidenceKind, content: bytes) -> None:
    """Keep a signature or scan report of an image in the folder `supply`. Whether it suffices, the policy says.

    A report that is older than the one that is there changes nothing. Raise InvalidEvidence if it cannot be read, or is
    one of another image.
    """
    try:
        check_digest(digest)
    except ValueError as error:
        raise InvalidEvidence(str(error)) from None
    if kind == "scan":
        report = read_report(content)
        _check_image(kind, report.digests, digest)
        if report.is_early:
            raise InvalidEvidence(
                f"The scan is of {report.created_at:%Y-%m-%d %H:%M} UTC, which has not been yet: set the clocks right"
            )
        if not _has_newer(folder, digest, report):
            write_scan(folder, digest, content)
    else:
        _check_image(kind, {signature.digest for signature in read_signatures(content)}, digest)
        is_full = len(signature_files(folder, digest)) >= SIGNATURES_MAX
        keys = Supply(folder).all_keys() if is_full else []  # Before anything is written: the policy may be broken.
        add_signature(folder, digest, content)
        _make_room(folder, digest, keys)


def _check_image(kind: EvidenceKind, about: Iterable[str], digest: str) -> None:
    if digest not in about:
        raise InvalidEvidence(f"The {kind} is one of {', '.join(sorted(about)) or 'no digest'}, and not of {digest}")


def _has_newer(folder: Path, digest: str, report: Report) -> bool:
    try:
        former = read_report(read_evidence(scan_file(folder, digest), "scan"))
    except (InvalidEvidence, OSError):
        return False
    return digest in former.digests and not former.is_early and former.created_at > report.created_at


def _make_room(folder: Path, digest: str, keys: Iterable[Key]) -> None:
    """Delete the oldest signatures beyond SIGNATURES_MAX, and never the newest one by one of `keys`."""
    files = signature_files(folder, digest)
    if len(files) <= SIGNATURES_MAX:
        return
    found = {path: _signatures_in(path, digest) for path in files}
    needed = [
        next((path for path in files if any(signature.is_by(key) for signature in found[path])), None) for key in keys
    ]
    others = [path for path in reversed(files) if path not in needed]
    for path in others[: len(files) - SIGNATURES_MAX]:
        path.unlink(missing_ok=True)


def _signatures_in(path: Path, digest: str) -> list[Signature]:
    try:
        return [one for one in read_signatures(read_evidence(path, "signature")) if one.digest == digest]
    except (InvalidEvidence, OSError):
        return []
