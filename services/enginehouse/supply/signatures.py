"""Read what cosign writes when it signs an image with a key. `keys.py` verifies it, offline.

Three forms say by themselves which image they sign:

- what `cosign download signature` prints: the "simple signing" payload, and its signature;
- the bundle of `cosign sign` since version 3: an in-toto statement in a DSSE envelope;
- the bundle of `cosign sign-blob --bundle` over the image's manifest, whose SHA-256 is the image's digest.

A transparency log is not asked, and certificates (keyless signatures) are refused: both would need the network.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, ValidationError

from enginehouse.contracts.base import WireModel
from enginehouse.supply.files import InvalidEvidence, not_as_written

_SIGNATURES_MAX = 20
_SHA256_BYTES = 32
_STATEMENTS = ("https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1")
_WRITTEN_BY = "Pass what 'cosign download signature IMAGE' prints, or the file of 'cosign sign-blob --bundle'."


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("must be text in base64")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("is not base64") from None


Base64 = Annotated[bytes, BeforeValidator(_decoded)]


class _Downloaded(WireModel):
    signature: Base64 = Field(alias="Base64Signature")
    payload: Base64 = Field(alias="Payload")


class _SignedImage(WireModel):
    digest: str = Field(alias="docker-manifest-digest")


class _Critical(WireModel):
    image: _SignedImage
    type: Literal["cosign container image signature"]


class _SimpleSigning(WireModel):
    critical: _Critical


class _EnvelopeSignature(WireModel):
    sig: Base64


class _Envelope(WireModel):
    payload: Base64
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: Annotated[list[_EnvelopeSignature], Field(min_length=1, max_length=_SIGNATURES_MAX)]


class _Subject(WireModel):
    digest: Mapping[str, str]


class _Statement(WireModel):
    type: Literal[_STATEMENTS] = Field(alias="_type")  # type: ignore[valid-type]
    subject: Annotated[list[_Subject], Field(min_length=1, max_length=1)]
    # A statement about an image, such as a list of its faults, is not the word that it may run.
    predicate_type: Literal["https://sigstore.dev/cosign/sign/v1"] = Field(alias="predicateType")


class _MessageDigest(WireModel):
    algorithm: Literal["SHA2_256"]
    digest: Base64


class _MessageSignature(WireModel):
    message_digest: _MessageDigest = Field(alias="messageDigest")
    signature: Base64


class _Bundle(WireModel):
    material: Mapping[str, Any] = Field(alias="verificationMaterial")
    message: _MessageSignature | None = Field(None, alias="messageSignature")
    envelope: _Envelope | None = Field(None, alias="dsseEnvelope")


class Key(Protocol):
    """A public key, as `keys.py` reads it."""

    def has_signed(self, signed: bytes, signature: bytes, *, is_hashed: bool) -> bool:
        """Return whether the key's owner has signed it."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature over an image."""

    digest: str
    """The image that it signs, `sha256:…`."""
    value: bytes
    """ECDSA, in DER."""
    signed: bytes
    """What was signed; where `is_hashed`, its SHA-256."""
    is_hashed: bool = False

    def is_by(self, key: Key) -> bool:
        """Return whether the key's owner has made it."""
        return key.has_signed(self.signed, self.value, is_hashed=self.is_hashed)


def read_signatures(content: bytes) -> list[Signature]:
    """Read a file of cosign: one signature, or several as lines. Raise InvalidEvidence."""
    lines = [line for line in content.splitlines() if line.strip()]
    try:
        # A bundle is one document, which may stand on several lines.
        whole = (
            [content]
            if len(lines) < 2 or not all(line.startswith(b"{") and line.endswith(b"}") for line in lines)
            else lines
        )
        found = list(islice((signature for one in whole for signature in _read(one)), _SIGNATURES_MAX + 1))
    except ValidationError as error:
        raise not_as_written("signature of an image", error, _WRITTEN_BY) from None
    if len(found) > _SIGNATURES_MAX:
        raise InvalidEvidence(f"it holds more than {_SIGNATURES_MAX} signatures")
    return found


def _read(content: bytes) -> Iterator[Signature]:
    if b'"Base64Signature"' in content:
        downloaded = _Downloaded.model_validate_json(content)
        signed = _SimpleSigning.model_validate_json(downloaded.payload)
        yield Signature(signed.critical.image.digest, downloaded.signature, downloaded.payload)
        return
    bundle = _Bundle.model_validate_json(content)
    if "publicKey" not in bundle.material:
        raise InvalidEvidence(
            "it is signed with a certificate (keyless), and only keys are verified here: sign with --key"
        )
    if bundle.message is not None:
        hashed = bundle.message.message_digest.digest
        if len(hashed) != _SHA256_BYTES:
            raise InvalidEvidence("its messageDigest is no SHA-256")
        yield Signature(f"sha256:{hashed.hex()}", bundle.message.signature, hashed, is_hashed=True)
    elif bundle.envelope is not None:
        statement = _Statement.model_validate_json(bundle.envelope.payload)
        digest = f"sha256:{statement.subject[0].digest.get('sha256', '')}"
        for signature in bundle.envelope.signatures:
            yield Signature(digest, signature.sig, _pre_authentication(bundle.envelope))
    else:
        raise InvalidEvidence(f"the bundle holds no signature. {_WRITTEN_BY}")


def _pre_authentication(envelope: _Envelope) -> bytes:
    """Return what DSSE signs: the payload with its type, each with its length."""
    kind = envelope.payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(envelope.payload), envelope.payload)
