"""The proof key of tests' gateways, and what is derived from it."""

from enginehouse.contracts.names import engine_of
from enginehouse.contracts.proofs import EngineKey, ProofKeys

PROOF_KEY = "the-proof-key-of-the-gateways-in-tests"


def key_of(engine_id: str) -> EngineKey:
    """Return the proof key of an engine's runners, which its version on trial has as well."""
    return ProofKeys(PROOF_KEY).of(engine_of(engine_id))
