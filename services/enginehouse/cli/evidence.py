"""Reads the signature and the scan report that 'engines deploy' is given, and gives them to a home or a registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from enginehouse.cli.registry_calls import content_of
from enginehouse.local.errors import LocalError
from enginehouse.registry.bundle import ENGINE_FILE, read_spec
from enginehouse.supply.decide import image_digest
from enginehouse.supply.files import EVIDENCE_MAX_BYTES, EvidenceKind, InvalidEvidence, read_bounded

_PANEL = "About its image, where the operator demands it"
SignatureOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Signature of the image, as cosign wrote it.", rich_help_panel=_PANEL),
]
ScanOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Scan report of the image, of trivy or grype.", rich_help_panel=_PANEL),
]
Evidence = Mapping[EvidenceKind, bytes]


def read_evidence(folder: Path, signature: Path | None, scan: Path | None) -> tuple[str, Evidence]:
    """Return the digest of the image in `folder`, and what the files hold. Raise LocalError or InvalidEvidence."""
    given: dict[EvidenceKind, Path | None] = {"signature": signature, "scan": scan}
    files = {kind: path for kind, path in given.items() if path is not None}
    if not files:
        return "", {}
    digest = image_digest(read_spec(folder / ENGINE_FILE))
    if digest is None:
        raise LocalError(
            f"{folder / ENGINE_FILE} names no image by its digest, of which --{' and --'.join(files)} could speak.",
            "Write `image: registry.example/name@sha256:…`.",
        )
    try:
        return digest, {kind: read_bounded(path, EVIDENCE_MAX_BYTES[kind]) for kind, path in files.items()}
    except OSError as error:
        raise InvalidEvidence(f"{error.filename}: {error.strerror}") from None


async def send_evidence(http: httpx2.AsyncClient, digest: str, evidence: Evidence) -> None:
    """Give a registry what is known of an image. Raise what it refuses with."""
    for kind, content in evidence.items():
        headers = {"Content-Type": "application/json"}
        content_of(await http.put(f"/v1/images/{digest}/{kind}", content=content, headers=headers))
