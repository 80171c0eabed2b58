"""Read the public keys of cosign, and verify by them.

Only `decide.py` loads this module, and only for a policy that names keys: `cryptography` takes 8 MB.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from enginehouse.supply.files import InvalidEvidence

_SHA256 = ec.ECDSA(hashes.SHA256())
_PREHASHED = ec.ECDSA(Prehashed(hashes.SHA256()))


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An ECDSA P-256 key."""

    key: ec.EllipticCurvePublicKey

    def has_signed(self, signed: bytes, signature: bytes, *, is_hashed: bool) -> bool:
        """Return whether the key's owner has signed it. `signature` is in DER; where `is_hashed`, `signed` is a SHA-256."""
        try:
            self.key.verify(signature, signed, _PREHASHED if is_hashed else _SHA256)
        except InvalidSignature:
            return False
        return True


def read_key(pem: bytes) -> PublicKey:
    """Read a public key of cosign. Raise InvalidEvidence."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidEvidence("it is no public key in PEM: pass the cosign.pub of 'cosign generate-key-pair'") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise InvalidEvidence("it is no ECDSA P-256 key, which 'cosign generate-key-pair' makes")
    return PublicKey(key)
