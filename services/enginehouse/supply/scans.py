"""Read the scan reports of trivy and grype, as their `--format json` and `-o json` write them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, ValidationError

from enginehouse.contracts.base import WireModel
from enginehouse.contracts.moments import now
from enginehouse.supply.files import InvalidEvidence, not_as_written
from enginehouse.supply.policy import Severity

SEVERITIES: tuple[str, ...] = ("unknown", *get_args(Severity))
"""From the least to the most severe. Both tools put what nobody has rated yet below everything."""
_CLOCKS_DIFFER = timedelta(hours=1)


def _severity(text: object) -> object:
    return text.lower() if isinstance(text, str) else text


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment} is no time in UTC") from None


_Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
_Rated = Annotated[Literal["unknown", "negligible", "low", "medium", "high", "critical"], BeforeValidator(_severity)]


class _TrivyFinding(WireModel):
    id: str = Field(alias="VulnerabilityID")
    package: str = Field(alias="PkgName")
    severity: _Rated = Field(alias="Severity")
    fixed: str = Field("", alias="FixedVersion")


class _TrivyResult(WireModel):
    findings: list[_TrivyFinding] | None = Field(None, alias="Vulnerabilities")


class _TrivyMetadata(WireModel):
    digests: list[str] | None = Field(None, alias="RepoDigests")


class _Trivy(WireModel):
    created_at: _Moment = Field(alias="CreatedAt")
    kind: Literal["container_image"] = Field(alias="ArtifactType")
    metadata: _TrivyMetadata = Field(alias="Metadata")
    results: list[_TrivyResult] | None = Field(None, alias="Results")


class _GrypeFix(WireModel):
    state: str = ""


class _GrypeId(WireModel):
    id: str


class _GrypeVulnerability(_GrypeId):
    severity: _Rated = "unknown"
    fix: _GrypeFix = _GrypeFix()


class _GrypePackage(WireModel):
    name: str


class _GrypeMatch(WireModel):
    vulnerability: _GrypeVulnerability
    related: list[_GrypeId] = Field(default_factory=list, alias="relatedVulnerabilities")
    artifact: _GrypePackage


class _GrypeTarget(WireModel):
    digests: list[str] | None = Field(None, alias="repoDigests")


class _GrypeSource(WireModel):
    kind: Literal["image"] = Field(alias="type")
    target: _GrypeTarget


class _GrypeDescriptor(WireModel):
    name: Literal["grype"]
    timestamp: _Moment


class _Grype(WireModel):
    matches: list[_GrypeMatch]
    source: _GrypeSource
    descriptor: _GrypeDescriptor


class _AnyReport(WireModel):
    """Tells the two apart, without reading what they found."""

    trivy: Any = Field(None, alias="SchemaVersion")
    grype: Any = Field(None, alias="descriptor")


@dataclass(frozen=True, slots=True)
class Finding:
    """A vulnerability of a package in an image."""

    ids: frozenset[str]
    """All that the report calls it: a GHSA and its CVE."""
    package: str
    severity: str
    """One of SEVERITIES."""
    is_fixed: bool
    """Whether there is a version of the package without it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a tool found in an image."""

    tool: str
    digests: frozenset[str]
    """The digests by which the image is pulled, `sha256:…`."""
    created_at: datetime
    """In UTC."""
    findings: tuple[Finding, ...]

    @property
    def is_early(self) -> bool:
        """Say whether its time has not been yet, by more than clocks differ."""
        return self.created_at - now() > _CLOCKS_DIFFER


def read_report(content: bytes) -> Report:
    """Read a report of trivy or grype about an image. Raise InvalidEvidence."""
    try:
        kind = _AnyReport.model_validate_json(content)
        if kind.trivy is not None:
            return _from_trivy(_Trivy.model_validate_json(content))
        if kind.grype is not None:
            return _from_grype(_Grype.model_validate_json(content))
    except ValidationError as error:
        raise not_as_written("scan report of an image", error, _WRITTEN_BY) from None
    raise InvalidEvidence(f"it is no scan report. {_WRITTEN_BY}")


_WRITTEN_BY = "Pass the file of 'trivy image --format json IMAGE@DIGEST' or of 'grype -o json IMAGE@DIGEST'."


def _from_trivy(read: _Trivy) -> Report:
    findings = (finding for result in read.results or () for finding in result.findings or ())
    return Report(
        "trivy",
        _digests(read.metadata.digests),
        read.created_at,
        tuple(Finding(frozenset((one.id,)), one.package, one.severity, bool(one.fixed)) for one in findings),
    )


def _from_grype(read: _Grype) -> Report:
    return Report(
        "grype", _digests(read.source.target.digests), read.descriptor.timestamp, tuple(_grype_findings(read.matches))
    )


def _grype_findings(matches: list[_GrypeMatch]) -> Iterator[Finding]:
    for match in matches:
        ids = frozenset((match.vulnerability.id, *(one.id for one in match.related)))
        is_fixed = match.vulnerability.fix.state == "fixed"
        yield Finding(ids, match.artifact.name, match.vulnerability.severity, is_fixed)


def _digests(references: list[str] | None) -> frozenset[str]:
    return frozenset(reference.rpartition("@")[2] for reference in references or ())
