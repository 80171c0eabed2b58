"""Decide whether a version of an engine may run, by the operator's policy. Deploying and starting ask the same function."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import NotAllowedToRun
from enginehouse.contracts.program import has_digest
from enginehouse.supply.files import (
    InvalidEvidence,
    read_bounded,
    read_evidence,
    scan_file,
    signature_files,
)
from enginehouse.supply.policy import POLICY_FILE, AllowedImages, Policy, ScanRules, read_policy
from enginehouse.supply.scans import SEVERITIES, Finding, Report, read_report
from enginehouse.supply.signatures import Key, Signature, read_signatures
from enginehouse.yaml_files import InvalidFile

T = TypeVar("T")

_KEY_MAX_BYTES = 16 * 1024
_SHOWN = 3
"""So many findings are named; the others are counted."""
_READ_MAX = 10_000
"""Of so many files it is remembered what they hold. Reading a report takes long, and a large house has thousands."""


@dataclass(slots=True)
class Supply:
    """An operator's policy, and what is known of images, in one folder. Without a policy everything may run."""

    folder: Path | None
    """The folder `supply` of a home. None: there is no policy."""
    _read: dict[Path, tuple[object, Any]] = field(default_factory=dict)
    """What files hold, as long as they do not change: of _READ_MAX at most."""
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def check(self, spec: EngineSpec, *, from_image: bool, at: datetime | None = None) -> str | None:
        """Say in words why a version may run; None where there is no policy. Raise NotAllowedToRun if it may not.

        `from_image`: the image runs that its engine.yaml names by a digest, if it names one; otherwise code of its folder.
        `at` is the time by which the age of a report and the dates of exceptions are judged. Raise InvalidFile if the
        policy cannot be read: nothing is allowed by it then.
        """
        policy = self._policy()
        if self.folder is None or policy is None:
            return None
        digest = image_digest(spec)
        if from_image and digest:
            repository = str(spec.image).removesuffix(f"@{digest}")
            image = _Image(self, self.folder, policy, repository, digest, at or datetime.now(UTC))
            why = f"{digest}: {image.why_allowed()}"
            _check_variables(policy, spec)
            return why
        return _why_built(policy, spec)

    def _policy(self) -> Policy | None:
        if self.folder is None:
            return None
        path = self.folder / POLICY_FILE
        try:
            return self.cached(path, partial(read_policy, path))
        except OSError as error:
            # A link that leads nowhere is a mistake, and not the absence of a policy.
            if isinstance(error, FileNotFoundError) and not path.is_symlink():
                return None
            raise InvalidFile(f"{path}: {error.strerror}") from None

    def mistake(self) -> str | None:
        """Return what is wrong with the policy, or with a key that it names: then nothing may start. None if it can be used."""
        try:
            self.all_keys()
        except InvalidFile as error:
            return str(error)
        return None

    def all_keys(self) -> list[Key]:
        """Return all keys that the policy names. Raise InvalidFile if it, or one of them, cannot be read."""
        entries = policy.images if (policy := self._policy()) else []
        return [self.key(name) for name in dict.fromkeys(name for entry in entries for name in entry.keys)]

    def key(self, name: str) -> Key:
        """Return the key in a file beside the policy. Raise InvalidFile if it cannot be read."""
        from enginehouse.supply.keys import read_key

        assert self.folder
        path = self.folder / name
        try:
            return self.cached(path, lambda: read_key(read_bounded(path, _KEY_MAX_BYTES)))
        except OSError as error:
            raise InvalidFile(f"{self.folder / POLICY_FILE}: images.keys: {path}: {error.strerror}") from None
        except InvalidEvidence as error:
            raise InvalidFile(f"{path}: {error}") from None

    def cached(self, path: Path, read: Callable[[], T], by: object = None) -> T:
        """Return what a file holds, read again only if it, or what it is read `by`, has changed.

        Raise OSError if it is not there.
        """
        # A link that takes a file's place changes nothing of the file that it leads to.
        status, entry = path.stat(), path.lstat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino, entry.st_ino, by)
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            known = (stamp, read())
            with self._reading:
                self._read[path] = known
                if len(self._read) > _READ_MAX:
                    del self._read[next(iter(self._read))]
        found: T = known[1]
        return found


def image_digest(spec: EngineSpec) -> str | None:
    """Return the digest by which an engine.yaml names its image; None if it names none."""
    return spec.image.rpartition("@")[2] if spec.image and has_digest(spec.image) else None


def _builds(policy: Policy, spec: EngineSpec) -> str | None:
    """Return the entry of `builds` that names the engine."""
    return next((glob for glob in policy.builds if _matches(glob, spec.id)), None)


def _check_variables(policy: Policy, spec: EngineSpec) -> None:
    """Raise NotAllowedToRun if an engine that may only run an image sets variables, by which other code would run in it."""
    # NODE_OPTIONS, JAVA_TOOL_OPTIONS, BASH_ENV, LD_PRELOAD, …: there is no list of all of them.
    if spec.program is None or not spec.program.env or _builds(policy, spec):
        return
    raise NotAllowedToRun(
        f"{spec.id} sets variables of its own, {', '.join(sorted(spec.program.env))}, for an image that the policy allows "
        f"as it is, and by variables other code can run in it. Remove {'run.env' if spec.run else 'module'} from its "
        f"engine.yaml, or add {spec.id} to builds in supply/{POLICY_FILE}"
    )


def _why_built(policy: Policy, spec: EngineSpec) -> str:
    if glob := _builds(policy, spec):
        return f"runs the code of its folder, which builds allows for {glob}"
    # What else the policy names is not said: the owner of this engine reads it.
    unused = f"{spec.image} is not on this machine, or engines run as processes. So " if image_digest(spec) else ""
    raise NotAllowedToRun(
        f"{unused}{spec.id} runs code of its uploaded folder, which the policy does not allow. "
        f"Add {spec.id} to builds in supply/{POLICY_FILE}, or name an allowed image by its digest and run engines in containers"
    )


@dataclass(frozen=True, slots=True)
class _Image:
    """One image, judged at one time."""

    supply: Supply
    folder: Path
    policy: Policy
    repository: str
    digest: str
    at: datetime

    def why_allowed(self) -> str:
        """Return the reason. Raise NotAllowedToRun."""
        reasons = []
        for entry in self.policy.images:
            if not _matches(entry.glob, self.repository):
                continue  # It may tell of other tenants, and the owner of this engine reads the reasons.
            if entry.digests and self.digest not in entry.digests:
                reasons.append(f"its digest is not among the {len(entry.digests)} of {entry.glob}")
            elif entry.keys and (wrong := self._wrong_signature(entry)):
                reasons.append(wrong)
            else:
                scanned = self._check_scan(self.policy.scan) if self.policy.scan else ""
                return (
                    f"allowed by {entry.glob}"
                    + (f", signed by {' or '.join(entry.keys)}" if entry.keys else "")
                    + scanned
                )
        raise self._refused(
            "; ".join(dict.fromkeys(reasons)) or "the policy has no entry for its repository",
            f"Add the digest, or a key that has signed it, to images in supply/{POLICY_FILE}",
        )

    def _wrong_signature(self, entry: AllowedImages) -> str | None:
        """Say why no key of the entry has signed the image; None if one has."""
        keys = [self.supply.key(name) for name in entry.keys]
        by = " or ".join(entry.keys)
        found, unusable = self._signatures()
        own = [signature for signature in found if signature.digest == self.digest]
        if any(one.is_by(key) for one in own for key in keys):
            return None
        if own:
            return f"its signature is not by {by}" if len(own) == 1 else f"none of its {len(own)} signatures is by {by}"
        if unusable:
            return f"its signature cannot be used: {_clause(unusable)}"
        if found:
            return f"its signature is one of {found[0].digest}"
        return f"it has no signature by {by}: deploy with --signature FILE"

    def _signatures(self) -> tuple[list[Signature], Exception | None]:
        """Return what files with signatures hold, and why one of them cannot be used: the others count all the same."""
        found: list[Signature] = []
        unusable: Exception | None = None
        for path in signature_files(self.folder, self.digest):
            try:
                found += self.supply.cached(path, partial(_read_signatures, path))
            except (InvalidEvidence, OSError) as error:
                unusable = error
        return found, unusable

    def _check_scan(self, rules: ScanRules) -> str:
        """Return what is known of the image's report. Raise NotAllowedToRun if it is missing, old or bad."""
        try:
            report = self._report(rules)
        except FileNotFoundError:
            raise self._refused("it has no scan report", "Deploy with --scan FILE, of trivy or grype") from None
        except (InvalidEvidence, OSError) as error:
            raise self._refused(
                f"its scan report cannot be used: {_clause(error)}", "Scan it, and deploy with --scan"
            ) from None
        self._check_time(report, rules)
        if self.digest not in report.digests:
            others = ", ".join(sorted(report.digests)) or "no digest"
            raise self._refused(f"its scan report is one of {others}", "Scan it by this digest")
        if bad := [finding for finding in report.findings if not _is_accepted(finding, rules, self.at)]:
            raise self._refused(_found(bad, rules), f"Mend the image, or accept them in scan.ignore of {POLICY_FILE}")
        return f", scanned by {report.tool} on {report.created_at:%Y-%m-%d}"

    def _check_time(self, report: Report, rules: ScanRules) -> None:
        when = f"{report.created_at:%Y-%m-%d %H:%M} UTC"
        if self.at - report.created_at > timedelta(days=rules.max_age_days):
            raise self._refused(
                f"its scan report is of {when}, more than {rules.max_age_days} days old", "Scan it again"
            )
        if report.is_early:
            raise self._refused(f"its scan report is of {when}, which has not been yet", "Set the clocks right")

    def _report(self, rules: ScanRules) -> Report:
        """Return the image's report, and of its findings those that refuse it unless they are accepted."""
        path, wanted = scan_file(self.folder, self.digest), (rules.fail_on_severity, rules.only_fixed)
        return self.supply.cached(path, partial(_read_report, path, rules), by=wanted)

    def _refused(self, why: str, advice: str) -> NotAllowedToRun:
        return NotAllowedToRun(f"{self.repository}@{self.digest} may not run here: {why}. {advice}")


def _clause(error: Exception) -> str:
    """Return what an error says, as a part of a sentence."""
    return str(error).removesuffix(".")


def _read_signatures(path: Path) -> list[Signature]:
    return read_signatures(read_evidence(path, "signature"))


def _read_report(path: Path, rules: ScanRules) -> Report:
    report = read_report(read_evidence(path, "scan"))
    # Most of a report are findings that do not count. They are not kept.
    counted = tuple(dict.fromkeys(finding for finding in report.findings if _counts(finding, rules)))
    return replace(report, findings=counted)


def _counts(finding: Finding, rules: ScanRules) -> bool:
    is_severe = SEVERITIES.index(finding.severity) >= SEVERITIES.index(rules.fail_on_severity)
    return is_severe and (finding.is_fixed or not rules.only_fixed)


def _is_accepted(finding: Finding, rules: ScanRules, at: datetime) -> bool:
    day = at.astimezone(UTC).date()
    return any(one.vulnerability in finding.ids and day < one.expired_at for one in rules.ignore)


def _found(bad: list[Finding], rules: ScanRules) -> str:
    named = [f"{min(finding.ids)} ({finding.severity}) in {finding.package}" for finding in bad[:_SHOWN]]
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return (
        f"its scan report has vulnerabilities of severity {rules.fail_on_severity} or worse: {', '.join(named)}{more}"
    )


def _matches(glob: str, name: str) -> bool:
    """Match as policy-controller does: `*` stands for anything without a slash, `**` for anything."""
    parts = re.split(r"(\*\*|\*)", glob)
    pattern = "".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(pattern, name, re.DOTALL) is not None
