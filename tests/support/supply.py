"""Signatures and scan reports in the forms that cosign, trivy and grype write, for images that tests make up."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

REPOSITORY = "registry.example/vision/cats"
DIGEST = "sha256:" + "ab" * 32
OTHER_DIGEST = "sha256:" + "cd" * 32
Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def simple_signing(key: Key, digest: str = DIGEST, kind: str = "cosign container image signature") -> dict[str, Any]:
    """What `cosign download signature` prints."""
    image = {"docker-manifest-digest": digest}
    critical = {"identity": {"docker-reference": REPOSITORY}, "image": image, "type": kind}
    payload = json.dumps({"critical": critical, "optional": None}).encode()
    return {"Base64Signature": _signed(key, payload), "Payload": _text(payload), "Cert": None, "Bundle": None}


def envelope_bundle(
    key: Key, digest: str = DIGEST, predicate: str = "https://sigstore.dev/cosign/sign/v1"
) -> dict[str, Any]:
    """The bundle of `cosign sign`, version 3."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": predicate,
    }
    kind, payload = "application/vnd.in-toto+json", json.dumps(statement).encode()
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    envelope = {"payload": _text(payload), "payloadType": kind, "signatures": [{"sig": _signed(key, signed)}]}
    return {**_bundle(), "dsseEnvelope": envelope}


def blob_bundle(key: Key, manifest: bytes) -> dict[str, Any]:
    """The bundle of `cosign sign-blob --bundle` over a manifest."""
    digest = {"algorithm": "SHA2_256", "digest": _text(hashlib.sha256(manifest).digest())}
    return {**_bundle(), "messageSignature": {"messageDigest": digest, "signature": _signed(key, manifest)}}


def _bundle() -> dict[str, Any]:
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "made by a test"}},
    }


def trivy_report(
    *severities: str, digest: str = DIGEST, at: datetime | None = None, fixed: str = "", id_: str = "CVE-2026-1234"
) -> dict[str, Any]:
    """What `trivy image --format json` writes."""
    found = [
        {
            "VulnerabilityID": id_,
            "PkgName": "openssl",
            "InstalledVersion": "3.0",
            "FixedVersion": fixed,
            "Severity": one,
        }
        for one in severities
    ]
    return {
        "SchemaVersion": 2,
        "CreatedAt": (at or datetime.now(UTC)).isoformat(),
        "ArtifactName": f"{REPOSITORY}@{digest}",
        "ArtifactType": "container_image",
        "Metadata": {"ImageID": "sha256:" + "00" * 32, "RepoDigests": [f"{REPOSITORY}@{digest}"]},
        "Results": [{"Target": "cats (debian 13)", "Class": "os-pkgs", "Vulnerabilities": found or None}],
    }


def grype_report(*severities: str, digest: str = DIGEST, at: datetime | None = None) -> dict[str, Any]:
    """What `grype -o json` writes."""
    found = [
        {
            "vulnerability": {
                "id": "GHSA-aaaa-bbbb-cccc",
                "severity": one,
                "fix": {"state": "fixed", "versions": ["2"]},
            },
            "relatedVulnerabilities": [{"id": "CVE-2026-1234"}],
            "artifact": {"name": "openssl", "version": "3.0", "type": "deb"},
        }
        for one in severities
    ]
    target = {"userInput": f"{REPOSITORY}@{digest}", "repoDigests": [f"{REPOSITORY}@{digest}"]}
    return {
        "matches": found,
        "source": {"type": "image", "target": target},
        "descriptor": {"name": "grype", "timestamp": (at or datetime.now(UTC)).isoformat()},
    }


def write_policy(home: Path, text: str, **keys: Key) -> Path:
    """Write the policy of a home, and the public keys that it names `<name>.pub`. Return its folder."""
    folder = home / "supply"
    folder.mkdir(exist_ok=True)
    for name, key in keys.items():
        (folder / f"{name}.pub").write_bytes(public_pem(key))
    (folder / "policy.yaml").write_text(text)
    return folder


def _signed(key: Key, content: bytes) -> str:
    return _text(key.sign(content, ec.ECDSA(hashes.SHA256())))


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
