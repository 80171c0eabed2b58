"""supply/policy.yaml: what an operator allows to run, in the terms of Sigstore's policy-controller, grype and trivy."""

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from enginehouse.contracts.base import StrictModel
from enginehouse.yaml_files import read_yaml

POLICY_FILE = "policy.yaml"
Severity = Literal["negligible", "low", "medium", "high", "critical"]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_digest(text: str) -> str:
    """Return `text` if it is the digest of an image; otherwise raise ValueError with the rule."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a digest: write 'sha256:' and 64 of 0-9 and a-f")
    return text


def _key_file(name: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} must be the name of a PEM file beside the policy, such as ci.pub")
    return name


Digest = Annotated[str, AfterValidator(check_digest)]
Glob = Annotated[str, Field(min_length=1, max_length=300)]


class AllowedImages(StrictModel):
    """Images that may run. Whatever it names must hold: the name, one of the digests, a signature by one of the keys."""

    glob: Glob = Field("**", description="Repositories: `*` stands for anything without a slash, `**` for anything.")
    digests: Annotated[list[Digest], Field(max_length=10_000)] = Field(
        default_factory=list, description="Exactly these images."
    )
    keys: Annotated[list[Annotated[str, AfterValidator(_key_file)]], Field(max_length=50)] = Field(
        default_factory=list, description="PEM files beside the policy: cosign's public keys, ECDSA P-256."
    )

    @model_validator(mode="after")
    def _names_a_proof(self) -> Self:
        if not self.digests and not self.keys:
            raise ValueError("needs `digests` or `keys`: a name alone says nothing of what is in an image")
        return self


class Ignored(StrictModel):
    """A vulnerability that is accepted, until the end of a day."""

    vulnerability: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        description="Its id as the report writes it, such as CVE-2026-1234."
    )
    expired_at: date = Field(description="First day (UTC) on which it is not accepted any longer, such as 2027-01-31.")
    reason: Annotated[str, Field(min_length=1, max_length=500)] = Field(description="Why it is accepted.")


class ScanRules(StrictModel):
    """What the scan report of every image must be like."""

    fail_on_severity: Severity = Field("critical", description="Vulnerabilities that are so severe, or more, refuse.")
    only_fixed: bool = Field(False, description="Whether only vulnerabilities count for which there is a fix.")
    max_age_days: Annotated[int, Field(ge=1, le=3_650)] = Field(30, description="Oldest report that counts, in days.")
    ignore: Annotated[list[Ignored], Field(max_length=10_000)] = Field(default_factory=list)


class Policy(StrictModel):
    """The content of policy.yaml. What it does not allow does not run."""

    images: Annotated[list[AllowedImages], Field(max_length=1_000)] = Field(default_factory=list)
    builds: Annotated[list[Glob], Field(max_length=1_000)] = Field(
        default_factory=list,
        description="Ids of engines, such as `shared--*`, that may run code of their uploaded folder: as a process, or in "
        "an image that is built here; and that may set variables (`run.env`) where an allowed image runs.",
    )
    scan: ScanRules | None = Field(None, description="Demands a scan report of every image. Default: none is demanded.")


def read_policy(path: Path) -> Policy:
    """Read the policy. Raise InvalidFile with every mistake."""
    return read_yaml(Policy, path)
