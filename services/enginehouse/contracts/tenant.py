"""A tenant: its limits and the hashes of its API keys. Holds no key itself."""

import hashlib
import secrets
from typing import Annotated

from pydantic import AwareDatetime, Field, field_validator

from enginehouse.contracts.base import StrictModel
from enginehouse.contracts.errors import InvalidName
from enginehouse.contracts.names import DEFAULT_ENGINE, PLATFORM_TENANT, check_name, resolve_candidates
from enginehouse.contracts.text import StorableText

KEY_PREFIX = "eh_"
ACTIVE_WEBHOOK_SECRETS = 2
"""Two secrets sign webhooks at the same time while a receiver changes from one to the other."""


FetchPlace = Annotated[str, Field(max_length=2_000, pattern=r"^[a-z][a-z0-9+.-]*://[^\s?#%]+$")]


class ApiKey(StrictModel):
    """One key of a tenant. Keys are 256 random bits, so a plain SHA-256 protects them as well as a slow hash."""

    id: str = Field(description="First characters of the key, to tell keys apart in listings.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    admin: bool = Field(False, description="Whether the key may register, quarantine and purge engines.")
    created_at: AwareDatetime


class Limits(StrictModel):
    """Limits of a tenant."""

    submits_per_second: Annotated[float, Field(gt=0)] = 1_000
    jobs_in_flight: Annotated[int, Field(ge=1)] = Field(
        100_000, description="Jobs that were accepted and have not ended."
    )
    stored_bytes: Annotated[int, Field(ge=0)] = Field(
        20 * 2**30,
        description="Bytes of uploads, large inputs and large outputs in the object store. Beyond it uploads and large inputs are refused.",
    )
    weight: Annotated[float, Field(ge=0.1, le=100)] = Field(
        1.0,
        description="Share of shared engines: a tenant of weight 3 gets three places for one of a tenant of weight 1.",
    )
    open_requests: Annotated[int, Field(ge=1)] = Field(
        1_000, description="Requests that one gateway answers at the same time, those that wait for a job included."
    )
    followers: Annotated[int, Field(ge=1)] = Field(
        200, description="Streams of jobs' events that may be open at one gateway at the same time."
    )


class Tenant(StrictModel):
    """The content of tenants/<tenant>/tenant.yaml."""

    name: str
    keys: list[ApiKey] = Field(default_factory=list)
    limits: Limits = Limits()
    default_engine: Annotated[str, Field(max_length=64)] = Field(
        DEFAULT_ENGINE, description="Engine of its jobs that name none: `sentiment` or `shared--standard`."
    )
    publish_finished: bool = Field(
        False,
        description="Publish the end of every job on finished.<tenant>. False: only of jobs that came as events.",
    )
    fetch_from: list[FetchPlace] = Field(
        default_factory=list, description="URLs below which `fetch` of its engines may name files."
    )
    webhook: Annotated[StorableText, Field(max_length=2_000)] | None = Field(
        None, description="Where to POST signed notices when one of its engines is paused, quarantined or active again."
    )

    suspended: bool = Field(
        False,
        description="Refuse its new work until it is false again. What it submitted goes on, and it may read results.",
    )
    removed: bool = Field(
        False, description="Its keys do not work any longer, and its data is being deleted. This cannot be taken back."
    )

    @field_validator("default_engine")
    @classmethod
    def _default_engine(cls, value: str) -> str:
        try:
            resolve_candidates(value, PLATFORM_TENANT)
        except InvalidName as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name("tenant", value)

    @field_validator("webhook")
    @classmethod
    def _webhook(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"{value[:100]!r} cannot be a webhook: it must begin with http:// or https://")
        return value


def new_key(tenant: str) -> str:
    """Return a new API key. It names its tenant, so that a leaked key is recognised."""
    return f"{KEY_PREFIX}{tenant}_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """Return the hash under which a key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_in(authorization: str) -> str:
    """Return the key in the value of an Authorization header; nothing if it holds none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def tenant_of_key(key: str) -> str:
    """Return the tenant that a key made by `new_key` names; nothing for another text. It proves nothing."""
    return key.removeprefix(KEY_PREFIX).partition("_")[0] if key.startswith(KEY_PREFIX) else ""
