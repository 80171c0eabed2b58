"""A tenant: its limits and the hashes of its API keys. Never a key itself."""

import hashlib
import secrets
from typing import Annotated

from pydantic import AwareDatetime, Field, field_validator

from enginehouse.contracts.base import StrictModel
from enginehouse.contracts.names import check_name

KEY_PREFIX = "eh_"
ACTIVE_WEBHOOK_SECRETS = 2
"""While a receiver changes from one to the other, both sign."""


class ApiKey(StrictModel):
    """One key of a tenant. Keys are 256 random bits, so a plain SHA-256 keeps them as safe as a slow hash would."""

    id: str = Field(description="First characters of the key, to tell keys apart in listings.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    admin: bool = Field(False, description="May register, quarantine and purge engines.")
    created_at: AwareDatetime


class Limits(StrictModel):
    """What a tenant may use."""

    submits_per_second: Annotated[float, Field(gt=0)] = 1_000
    jobs_in_flight: Annotated[int, Field(ge=1)] = Field(100_000, description="Accepted and not ended.")


class Tenant(StrictModel):
    """tenants/<tenant>/tenant.yaml."""

    name: str
    keys: list[ApiKey] = Field(default_factory=list)
    limits: Limits = Limits()
    publish_finished: bool = Field(
        False,
        description="Whether the end of every job is published on finished.<tenant>, not only of those from events.",
    )
    webhook: Annotated[str, Field(max_length=2_000, pattern=r"^https?://")] | None = Field(
        None, description="Where to POST signed notices of its engines: paused, quarantined, active again."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name("tenant", value)


def new_key(tenant: str) -> str:
    """A new API key; it says whose it is, so that a leaked one is recognised."""
    return f"{KEY_PREFIX}{tenant}_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()
