"""The policy decides what may run: by digest, by signature, by scan report; and says what is wrong and would be right."""

import errno
import hashlib
import json
import os
import re
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.supply import (
    DIGEST,
    OTHER_DIGEST,
    REPOSITORY,
    Key,
    blob_bundle,
    envelope_bundle,
    grype_report,
    new_key,
    simple_signing,
    trivy_report,
    write_policy,
)

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import NotAllowedToRun
from enginehouse.supply.decide import Supply
from enginehouse.supply.evidence import SIGNATURES_MAX, put_evidence
from enginehouse.supply.files import InvalidEvidence, scan_file, signature_files, sweep_drafts
from enginehouse.supply.policy import read_policy
from enginehouse.yaml_files import InvalidFile

_NOW = datetime.now(UTC)
_SCAN = f"images: [{{digests: ['{DIGEST}']}}]\nscan:\n  fail_on_severity: high\n"


def _spec(digest: str = DIGEST, **fields: Any) -> EngineSpec:
    return EngineSpec(tenant="acme", name="cats", image=f"{REPOSITORY}@{digest}", **fields)


def _check(home: Path, spec: EngineSpec | None = None, at: datetime | None = None) -> str | None:
    return Supply(home / "supply").check(spec or _spec(), from_image=True, at=at)


def _give(home: Path, kind: Any, content: dict[str, Any], digest: str = DIGEST) -> None:
    put_evidence(home / "supply", digest, kind, json.dumps(content).encode())


def _refusal(home: Path, at: datetime | None = None) -> str:
    with pytest.raises(NotAllowedToRun) as refused:
        _check(home, at=at)
    return str(refused.value)


def test_without_a_policy_everything_may_run(tmp_path: Path) -> None:
    assert _check(tmp_path) is None
    assert Supply(None).check(_spec(), from_image=False) is None


def test_an_image_runs_by_its_digest_and_no_other_does(tmp_path: Path) -> None:
    write_policy(tmp_path, f"images: [{{digests: ['{DIGEST}']}}]")
    assert _check(tmp_path) == f"{DIGEST}: allowed by **"
    with pytest.raises(NotAllowedToRun, match=rf"{OTHER_DIGEST} may not run here.*Add the digest"):
        _check(tmp_path, _spec(OTHER_DIGEST))


def test_code_of_a_folder_runs_only_for_engines_that_builds_names(tmp_path: Path) -> None:
    write_policy(tmp_path, "builds: ['shared--*']")
    mine = EngineSpec.model_validate({"tenant": "acme", "name": "one", "run": {"command": ["serve"]}})
    theirs = mine.model_copy(update={"tenant": "shared"})
    assert "builds allows for shared--*" in str(_check(tmp_path, theirs))
    with pytest.raises(NotAllowedToRun, match=r"acme--one runs code of its uploaded folder.*Add acme--one to builds"):
        _check(tmp_path, mine)
    # As a process an engine runs the code of its folder, whatever image its engine.yaml names.
    write_policy(tmp_path, f"images: [{{digests: ['{DIGEST}']}}]")
    with pytest.raises(NotAllowedToRun, match="is not on this machine, or engines run as processes"):
        Supply(tmp_path / "supply").check(_spec(run={"command": ["serve"]}), from_image=False)


def test_an_allowed_image_gets_variables_only_for_engines_that_builds_names(tmp_path: Path) -> None:
    images = f"images: [{{digests: ['{DIGEST}']}}]\n"
    write_policy(tmp_path, images)
    assert _check(tmp_path, _spec(run={"command": ["serve"]}))
    set_by_run = _spec(run={"command": ["serve"], "env": {"NODE_OPTIONS": "--import=data:text/javascript,run()"}})
    with pytest.raises(NotAllowedToRun, match=r"sets variables of its own, NODE_OPTIONS, .*Remove run\.env.*builds"):
        _check(tmp_path, set_by_run)
    set_by_module = _spec(module={"file": "evil.zip", "engine": "evil"})
    with pytest.raises(NotAllowedToRun, match=r"PYTHONPATH, .*Remove module from its engine\.yaml"):
        _check(tmp_path, set_by_module)
    write_policy(tmp_path, f"{images}builds: ['acme--*']")
    assert _check(tmp_path, set_by_run) == f"{DIGEST}: allowed by **"
    write_policy(tmp_path, "builds: ['acme--*']")
    with pytest.raises(NotAllowedToRun, match="no entry for its repository"):
        _check(tmp_path, set_by_run)


_FORMS: dict[str, Callable[[Key], dict[str, Any]]] = {"simple": simple_signing, "envelope": envelope_bundle}


@pytest.mark.parametrize("form", _FORMS)
def test_a_signature_by_the_key_of_the_policy_allows(tmp_path: Path, form: str) -> None:
    key = new_key()
    write_policy(tmp_path, "images: [{glob: 'registry.example/vision/*', keys: [ci.pub]}]", ci=key)
    assert "it has no signature by ci.pub: deploy with --signature FILE" in _refusal(tmp_path)
    _give(tmp_path, "signature", _FORMS[form](key))
    assert _check(tmp_path) == f"{DIGEST}: allowed by registry.example/vision/*, signed by ci.pub"


def test_a_signature_over_the_manifest_is_one_of_the_image(tmp_path: Path) -> None:
    manifest = b'{"schemaVersion": 2}'
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    key = new_key()
    write_policy(tmp_path, "images: [{keys: [ci.pub]}]", ci=key)
    _give(tmp_path, "signature", blob_bundle(key, manifest), digest)
    assert "signed by ci.pub" in str(_check(tmp_path, _spec(digest)))


@pytest.mark.parametrize("form", _FORMS)
def test_a_signature_by_another_key_or_cut_does_not(tmp_path: Path, form: str) -> None:
    key = new_key()
    write_policy(tmp_path, "images: [{keys: [ci.pub]}]", ci=key)
    _give(tmp_path, "signature", _FORMS[form](new_key()))
    assert "its signature is not by ci.pub" in _refusal(tmp_path)
    cut = _FORMS[form](key)
    if form == "simple":
        cut["Base64Signature"] = cut["Base64Signature"][:40]
    else:
        cut["dsseEnvelope"]["signatures"][0]["sig"] = cut["dsseEnvelope"]["signatures"][0]["sig"][:40]
    _give(tmp_path, "signature", cut)
    assert "none of its 2 signatures is by ci.pub" in _refusal(tmp_path)


def test_one_of_several_signatures_by_a_key_suffices(tmp_path: Path) -> None:
    key = new_key()
    write_policy(tmp_path, "images: [{keys: [old.pub, ci.pub]}]", ci=key, old=new_key())
    lines = "\n".join(json.dumps(simple_signing(one)) for one in (new_key(), key))
    put_evidence(tmp_path / "supply", DIGEST, "signature", lines.encode())
    assert "signed by" in str(_check(tmp_path))


def test_a_signature_takes_nothing_from_those_that_are_there(tmp_path: Path) -> None:
    key, old = new_key(), new_key()
    write_policy(tmp_path, "images: [{keys: [ci.pub]}]", ci=key, old=old)
    _give(tmp_path, "signature", simple_signing(key))
    for _ in range(2):
        _give(tmp_path, "signature", envelope_bundle(new_key()))
        assert "signed by ci.pub" in str(_check(tmp_path))
    _give(tmp_path, "signature", simple_signing(old))
    for name in ("old", "ci"):
        write_policy(tmp_path, f"images: [{{keys: [{name}.pub]}}]")
        assert f"signed by {name}.pub" in str(_check(tmp_path))


def test_signatures_are_bounded_and_the_last_by_each_key_of_the_policy_stays(tmp_path: Path) -> None:
    ci, old = new_key(), new_key()
    write_policy(tmp_path, "images: [{keys: [ci.pub]}, {keys: [old.pub]}]", ci=ci, old=old)
    content = simple_signing(ci)
    for _ in range(2):
        _give(tmp_path, "signature", content)
    assert len(signature_files(tmp_path / "supply", DIGEST)) == 1
    _give(tmp_path, "signature", simple_signing(old))
    for _ in range(SIGNATURES_MAX):
        _give(tmp_path, "signature", simple_signing(new_key()))
    assert len(signature_files(tmp_path / "supply", DIGEST)) == SIGNATURES_MAX
    for name in ("old", "ci"):
        write_policy(tmp_path, f"images: [{{keys: [{name}.pub]}}]")
        assert f"signed by {name}.pub" in str(_check(tmp_path))


@pytest.mark.parametrize("form", _FORMS)
def test_a_file_with_more_signatures_than_are_worth_the_time_is_refused(tmp_path: Path, form: str) -> None:
    one = _FORMS[form](new_key())
    if form == "envelope":
        one["dsseEnvelope"]["signatures"] *= 11
    lines = "\n".join([json.dumps(one)] * (2 if form == "envelope" else 21))
    with pytest.raises(InvalidEvidence, match="more than 20 signatures"):
        put_evidence(tmp_path / "supply", DIGEST, "signature", lines.encode())


def test_a_signature_that_cannot_be_read_does_not_spoil_the_others(tmp_path: Path) -> None:
    key = new_key()
    folder = write_policy(tmp_path, "images: [{keys: [ci.pub]}]", ci=key)
    _give(tmp_path, "signature", simple_signing(new_key()))
    signature_files(folder, DIGEST)[0].write_text("nonsense")
    assert "its signature cannot be used: it is no signature" in _refusal(tmp_path)
    # Where a former version kept the only one.
    (folder / "images" / f"{DIGEST.replace(':', '-')}.signature.json").write_text(json.dumps(simple_signing(key)))
    assert "signed by ci.pub" in str(_check(tmp_path))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({}, "is no signature of an image"),
        (simple_signing(new_key(), kind="atomic container signature"), "critical.type"),
        (envelope_bundle(new_key(), predicate="https://cosign.sigstore.dev/attestation/vuln/v1"), "predicateType"),
        (simple_signing(new_key(), OTHER_DIGEST), f"is one of {OTHER_DIGEST}, and not of {DIGEST}"),
        ({**envelope_bundle(new_key()), "verificationMaterial": {"certificate": {}}}, "only keys are verified"),
        ({"Base64Signature": "%", "Payload": ""}, "is not base64"),
        ([[]] * 2, "is no signature of an image"),
    ],
    ids=["nothing", "other kind", "attestation", "other image", "keyless", "not base64", "a list"],
)
def test_what_is_no_signature_of_the_image_is_not_taken(tmp_path: Path, content: Any, why: str) -> None:
    with pytest.raises(InvalidEvidence, match=why):
        _give(tmp_path, "signature", content)
    assert not signature_files(tmp_path / "supply", DIGEST)


def test_a_key_that_is_none_makes_the_policy_unusable(tmp_path: Path) -> None:
    folder = write_policy(tmp_path, "images: [{keys: [ci.pub]}]")
    with pytest.raises(InvalidFile, match=r"images\.keys: .*ci\.pub: No such file"):
        _check(tmp_path)
    (folder / "ci.pub").write_text("-----BEGIN PUBLIC KEY-----\nnone\n-----END PUBLIC KEY-----\n")
    with pytest.raises(InvalidFile, match=r"ci\.pub: it is no public key in PEM"):
        _check(tmp_path)


_REPORTS: dict[str, Callable[..., dict[str, Any]]] = {"trivy": trivy_report, "grype": grype_report}


@pytest.mark.parametrize("tool", _REPORTS)
def test_a_report_allows_until_it_is_old_or_has_a_severe_finding(tmp_path: Path, tool: str) -> None:
    write_policy(tmp_path, _SCAN)
    assert "it has no scan report. Deploy with --scan FILE" in _refusal(tmp_path)
    _give(tmp_path, "scan", _REPORTS[tool]("Low", "Medium"))
    assert f"scanned by {tool} on {_NOW:%Y}" in str(_check(tmp_path))
    assert "more than 30 days old. Scan it again" in _refusal(tmp_path, _NOW + timedelta(days=31))
    _give(tmp_path, "scan", _REPORTS[tool]("Critical", "High", "Low"))
    refusal = _refusal(tmp_path)
    assert "of severity high or worse: CVE-2026-1234 (critical) in openssl, CVE-2026-1234 (high) in openssl." in refusal


@pytest.mark.parametrize("tool", _REPORTS)
def test_a_finding_is_accepted_until_its_exception_expires(tmp_path: Path, tool: str) -> None:
    ignored = "  ignore: [{vulnerability: CVE-2026-1234, expired_at: 2031-05-01, reason: not reachable}]\n"
    write_policy(tmp_path, f"{_SCAN}  max_age_days: 3650\n{ignored}")
    _give(tmp_path, "scan", _REPORTS[tool]("Critical"))
    assert _check(tmp_path, at=datetime(2031, 4, 30, 23, 59, tzinfo=UTC))
    assert "CVE-2026-1234" in _refusal(tmp_path, datetime(2031, 5, 1, tzinfo=UTC))


def test_a_report_that_was_made_after_the_start_of_what_runs_stops_it_only_for_what_it_finds(tmp_path: Path) -> None:
    write_policy(tmp_path, _SCAN)
    _give(tmp_path, "scan", trivy_report("LOW"))
    started = _NOW - timedelta(days=3)
    assert _check(tmp_path, at=started)
    _give(tmp_path, "scan", trivy_report("CRITICAL"))
    assert "CVE-2026-1234 (critical)" in _refusal(tmp_path, started)


def test_a_report_of_a_time_to_come_does_not_allow(tmp_path: Path) -> None:
    write_policy(tmp_path, _SCAN)
    _give(tmp_path, "scan", trivy_report("LOW"))
    scan_file(tmp_path / "supply", DIGEST).write_text(json.dumps(trivy_report(at=_NOW + timedelta(days=1))))
    assert "which has not been yet. Set the clocks right" in _refusal(tmp_path)


def test_an_older_report_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    write_policy(tmp_path, _SCAN)
    _give(tmp_path, "scan", trivy_report("CRITICAL"))
    _give(tmp_path, "scan", grype_report(at=_NOW - timedelta(days=1)))
    assert "CVE-2026-1234 (critical)" in _refusal(tmp_path)
    # What cannot be a report's time would otherwise hold its place for ever.
    with pytest.raises(InvalidEvidence, match="which has not been yet"):
        _give(tmp_path, "scan", trivy_report(at=_NOW + timedelta(days=1)))
    scan_file(tmp_path / "supply", DIGEST).write_text(json.dumps(trivy_report(at=_NOW + timedelta(days=1))))
    _give(tmp_path, "scan", grype_report())
    assert "scanned by grype" in str(_check(tmp_path))


def test_findings_without_a_fix_may_be_let_through(tmp_path: Path) -> None:
    write_policy(tmp_path, f"{_SCAN}  only_fixed: true\n")
    _give(tmp_path, "scan", trivy_report("CRITICAL"))
    assert _check(tmp_path)
    _give(tmp_path, "scan", trivy_report("CRITICAL", fixed="3.1"))
    assert "CVE-2026-1234 (critical)" in _refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({}, "it is no scan report"),
        (trivy_report(digest=OTHER_DIGEST), f"is one of {OTHER_DIGEST}, and not of {DIGEST}"),
        (grype_report(digest=OTHER_DIGEST), f"is one of {OTHER_DIGEST}, and not of {DIGEST}"),
        (trivy_report("APOCALYPTIC"), "Severity"),
        ({**trivy_report(), "ArtifactType": "filesystem"}, "ArtifactType"),
        ({**trivy_report(), "CreatedAt": "2026-01-01T00:00:00"}, "CreatedAt"),
        (
            {**trivy_report(), "CreatedAt": "0001-01-01T00:00:00+01:00"},
            "CreatedAt: 0001-01-01 00:00:00\\+01:00 is no time in UTC",
        ),
        ({**trivy_report(), "CreatedAt": "9999-12-31T23:00:00-02:00"}, "CreatedAt: .* is no time in UTC"),
        ({"descriptor": {"name": "other"}}, "no scan report of an image"),
    ],
    ids=[
        "nothing",
        "trivy: other image",
        "grype: other image",
        "unknown severity",
        "no image",
        "no zone",
        "before all time",
        "after all time",
        "other tool",
    ],
)
def test_what_is_no_report_of_the_image_is_not_taken(tmp_path: Path, content: Any, why: str) -> None:
    with pytest.raises(InvalidEvidence, match=why):
        _give(tmp_path, "scan", content)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_policy(tmp_path, _SCAN)
    _give(tmp_path, "scan", trivy_report())
    there = set(folder.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        _give(tmp_path, "scan", trivy_report())
    assert set(folder.rglob("*")) == there


def test_what_killed_writers_have_left_is_deleted_when_nobody_writes_it_any_longer(tmp_path: Path) -> None:
    folder = write_policy(tmp_path, _SCAN)
    _give(tmp_path, "signature", simple_signing(new_key()))
    there = set(folder.rglob("*"))
    (signatures,) = folder.glob("images/*.signatures")
    fresh, *left = (folder / "images" / ".new-1", folder / "images" / ".new-2", signatures / ".new-3")
    for path in (fresh, *left):
        path.write_text("half")
    for path in left:
        os.utime(path, (0, 0))
    sweep_drafts(folder)
    assert set(folder.rglob("*")) == {*there, fresh}


def test_what_does_not_count_of_a_report_is_not_kept_in_memory(tmp_path: Path) -> None:
    folder = write_policy(tmp_path, _SCAN)
    supply = Supply(folder)
    severities = ["LOW"] * 10_000
    _give(tmp_path, "scan", trivy_report(*severities))
    tracemalloc.start()
    try:
        assert supply.check(_spec(), from_image=True)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 500_000
    # Another rule, and they count.
    write_policy(tmp_path, _SCAN.replace("high", "low"))
    with pytest.raises(NotAllowedToRun, match=r"CVE-2026-1234 \(low\) in openssl"):
        supply.check(_spec(), from_image=True)


def test_an_edit_of_any_file_counts_at_once(tmp_path: Path) -> None:
    folder = write_policy(tmp_path, _SCAN)
    supply = Supply(folder)
    _give(tmp_path, "scan", trivy_report("LOW"))
    assert supply.check(_spec(), from_image=True)
    _give(tmp_path, "scan", trivy_report("CRITICAL"))
    with pytest.raises(NotAllowedToRun):
        supply.check(_spec(), from_image=True)
    write_policy(tmp_path, f"images: [{{digests: ['{DIGEST}']}}]")
    assert supply.check(_spec(), from_image=True)
    write_policy(tmp_path, "images: []")
    with pytest.raises(NotAllowedToRun, match="the policy has no entry for its repository"):
        supply.check(_spec(), from_image=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image: []", r"image: is not a known key; did you mean images\? \(line 1\)"),
        ("builds: []\nimages:\n  - glob: 'a/*'", r"images\[0\]: needs `digests` or `keys`.* \(line 3\)"),
        ("images: [{digests: [latest]}]", r"images\[0\]\.digests\[0\]: 'latest' is not a digest"),
        ("images: [{keys: [../../ca.pem]}]", "must be the name of a PEM file beside the policy"),
        ("scan: {fail_on_severity: awful}", "must be 'negligible', 'low', 'medium', 'high' or 'critical', not 'awful'"),
        ("scan:\n  ignore:\n  - {vulnerability: CVE-1, reason: x}", r"expired_at: is missing \(line 3\)"),
        ("builds: everything", "must be a list, not 'everything'"),
        ("", "must hold keys and values, not nothing"),
    ],
)
def test_a_policy_with_a_mistake_allows_nothing_and_says_where(tmp_path: Path, text: str, why: str) -> None:
    write_policy(tmp_path, text)
    with pytest.raises(InvalidFile, match=why):
        _check(tmp_path)
    assert re.search(why, Supply(tmp_path / "supply").mistake() or "")


def test_the_policy_of_the_documentation_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "supply.md").read_text()
    folder = write_policy(tmp_path, text.split("```yaml\n")[1].split("```")[0].replace("4bf8…", "ab" * 32))
    policy = read_policy(folder / "policy.yaml")
    assert policy.scan
    for model, place in ((policy, ""), (policy.images[0], "images[]."), (policy.scan, "scan.")):
        for name in type(model).model_fields:
            assert f"| `{place}{name}` |" in text


def test_a_policy_that_cannot_be_read_is_not_the_absence_of_one(tmp_path: Path) -> None:
    policy = write_policy(tmp_path, "builds: []") / "policy.yaml"
    policy.unlink()
    policy.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidFile, match=r"policy\.yaml: No such file"):
        _check(tmp_path)
    policy.unlink()
    policy.mkdir()
    with pytest.raises(InvalidFile, match=r"policy\.yaml: Is a directory"):
        _check(tmp_path)


def test_stars_in_names_stop_at_slashes(tmp_path: Path) -> None:
    key = new_key()
    for glob, allowed in {
        "registry.example/vision/*": True,
        "registry.example/*": False,
        "registry.example/**": True,
        "*/vision/cats": True,
        "registry-example/vision/cats": False,
    }.items():
        write_policy(tmp_path, f"images: [{{glob: '{glob}', digests: ['{DIGEST}']}}]", ci=key)
        if allowed:
            assert _check(tmp_path)
        else:
            assert "no entry for its repository" in _refusal(tmp_path)
