"""Proofs: MACs by which a gateway and an engine's runner know what the other has said.

A sidecar adds its app's token to all that it passes on, and on one machine its port for other sidecars asks for nothing. So
neither a token nor a topic shows who wrote an event or made a call.
"""

import hashlib
import hmac
import re
import time
from typing import NewType
from urllib.parse import unquote

import pydantic_core

PROOF_KEY_MIN_LENGTH = 32
CALL_PROOF_SECONDS = 120
"""How old the proof of a call may be, the differences of machines' clocks included."""
_MOMENT = re.compile("[0-9]{1,12}")

EngineKey = NewType("EngineKey", str)
"""The key of one engine: its runners hold it, and every gateway can derive it."""


class ProofKeys:
    """Derives the engines' keys from the one of the gateways, so that a new engine changes nothing there."""

    def __init__(self, gateway_key: str) -> None:
        """Take the gateways' own key: a secret of at least PROOF_KEY_MIN_LENGTH characters. Raise ValueError if it is shorter."""
        if len(gateway_key) < PROOF_KEY_MIN_LENGTH:
            raise ValueError(f"the proof key must have at least {PROOF_KEY_MIN_LENGTH} characters")
        self._gateway_key = gateway_key.encode()

    def of(self, engine_id: str) -> EngineKey:
        """Return an engine's key, which its version on trial has as well: 64 hexadecimal digits."""
        return EngineKey(hmac.digest(self._gateway_key, f"engine {engine_id}".encode(), "sha256").hex())


def proof(key: EngineKey, *said: str | int) -> str:
    """Return the proof that whoever holds `key` has said this: 64 hexadecimal digits."""
    return hmac.digest(key.encode(), pydantic_core.to_json(said), "sha256").hex()


def proves(shown: object, key: EngineKey, *said: str | int) -> bool:
    """Return whether `shown`, whatever a stranger put there, is the proof that whoever holds `key` has said this."""
    return isinstance(shown, str) and shown.isascii() and hmac.compare_digest(shown, proof(key, *said))


def call_proof(key: EngineKey, method: str, path: str, query: str, body: bytes) -> str:
    """Return the proof of a gateway's call to a runner, made now. `path` is percent-encoded, without a slash before it."""
    moment, digest = int(time.time()), hashlib.sha256(body).hexdigest()
    return f"{moment}.{digest}.{proof(key, *_call_said(moment, method, path, query, digest))}"


def proven_body(shown: str | None, key: EngineKey, method: str, path: str, query: str) -> str | None:
    """Return the SHA-256 of the body that a gateway's call has, before it is read; None if nothing proves the call.

    A proof is good for CALL_PROOF_SECONDS.
    """
    moment, _, rest = (shown or "").partition(".")
    digest, _, mac = rest.partition(".")
    if not _MOMENT.fullmatch(moment) or abs(time.time() - int(moment)) > CALL_PROOF_SECONDS:
        return None
    return digest if proves(mac, key, *_call_said(int(moment), method, path, query, digest)) else None


def _call_said(moment: int, method: str, path: str, query: str, digest: str) -> tuple[str | int, ...]:
    # Dapr decodes the path once on its way.
    return ("call", moment, method, unquote(path), query, digest)
