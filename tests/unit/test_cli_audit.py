"""The commands record what they change, and `audit verify` says what is wrong with an audit log."""

import json
import os
import pwd
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from enginehouse.audit.chain import segments
from enginehouse.audit.read import Query, read_page
from enginehouse.cli.app import app
from enginehouse.cli.audit import _moment
from enginehouse.contracts.audit import AuditEntry
from enginehouse.contracts.moments import now
from enginehouse.local.home import Home

runner = CliRunner()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = Home.at(tmp_path / "home")
    monkeypatch.setenv("ENGINEHOUSE_HOME", str(made.path))
    monkeypatch.delenv("ENGINEHOUSE_URL", raising=False)
    return made


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "engine.yaml").write_text("tenant: demo\nname: one\nrun: {command: [serve]}\nsecrets: [TOKEN]\n")
    return folder


def entries(home: Home) -> list[AuditEntry]:
    return [one.entry for one in reversed(read_page(home.audit, Query(), None, 100).entries)]


def does(*command: str, given: str | None = None, status: int = 0) -> str:
    result = runner.invoke(app, command, input=given)
    assert result.exit_code == status, result.output
    return result.output


def test_every_change_of_a_command_is_recorded_by_names_only(home: Home, engine: Path) -> None:
    key = does("tenant", "add", "acme").split("\n")[0]
    does("tenant", "add", "acme")
    does("tenant", "limits", "acme", "--jobs-in-flight", "7")
    does("tenant", "limits", "acme")
    does("tenant", "suspend", "acme")
    does("tenant", "webhook", "acme", "https://user:pssst@acme.example/")
    does("tenant", "revoke", "acme", key)
    does("tenant", "revoke", key, "acme", status=1)
    does("tenant", "webhook-secret", "acme")
    does("tenant", "default-engine", "acme", "nothing", status=1)
    does("engines", "deploy", str(engine))
    does("engines", "secret", "set", "demo/one", "TOKEN", given="pssst")
    does("engines", "secret", "rm", "demo/one", "TOKEN")
    does("engines", "promote", "one", status=1)
    does("engines", "remove", "one", "--yes")
    does("tenant", "remove", "acme", "--yes")
    found = entries(home)
    assert [
        (entry.action.removeprefix("enginehouse "), entry.outcome, entry.tenant, entry.detail) for entry in found
    ] == [
        ("tenant add", "ok", "acme", "a key"),
        ("tenant add", "ok", "acme", "a key"),
        ("tenant limits", "ok", "acme", "jobs_in_flight 7"),
        ("tenant suspend", "ok", "acme", None),
        ("tenant webhook", "ok", "acme", None),
        ("tenant revoke", "ok", "acme", f"key {key[: 4 + 12]}"),
        ("tenant revoke", "INVALID_NAME", None, None),
        ("tenant webhook-secret", "ok", "acme", None),
        ("engines deploy", "ok", "demo", "version v1 into slot a"),
        ("engines secret set", "ok", "demo", "secret TOKEN"),
        ("engines secret rm", "ok", "demo", "secret TOKEN"),
        ("engines promote", "NO_OTHER_VERSION", "demo", None),
        ("engines remove", "ok", "demo", None),
        ("tenant remove", "ok", "acme", None),
    ]
    assert {entry.user for entry in found} == {pwd.getpwuid(os.getuid()).pw_name}
    assert {entry.engine for entry in found if "engines" in entry.action} == {"demo--one"}
    written = b"".join(path.read_bytes() for path in home.audit.rglob("*.jsonl"))
    assert b"pssst" not in written
    assert key.encode() not in written
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.audit.rglob("*"))


def test_a_command_that_cannot_be_recorded_changes_nothing(home: Home) -> None:
    home.audit.write_text("in the way")
    result = runner.invoke(app, ["tenant", "add", "acme"])
    assert result.exit_code == 1
    assert "'tenant add' has changed nothing" in result.stderr
    assert not (home.tenants / "acme").exists()


@pytest.fixture
def written(home: Home) -> Path:
    for name in ("acme", "umbra", "third"):
        does("tenant", "add", name)
    ((_, path),) = segments(home.audit / "commands")
    return path


def test_verify_says_that_all_is_well_and_shows_the_heads(written: Path, tmp_path: Path) -> None:
    shown = does("audit", "verify")
    assert "Every entry is what was written" in shown
    assert "--heads FILE" in shown
    (chain,) = json.loads(does("audit", "verify", "--json"))
    assert (chain["chain"], chain["entries"], chain["first"], chain["faults"]) == ("commands", 3, 1, [])
    kept = tmp_path / "heads.txt"
    kept.write_text(f"kept on paper: {chain['head']}\n")
    assert "--heads" not in does("audit", "verify", "--heads", str(kept))
    written.write_bytes(b"".join(written.read_bytes().splitlines(keepends=True)[:2]))
    assert "its newest entries were cut off" in does("audit", "verify", "--heads", str(kept), status=1).lower()


def test_verify_names_the_entry_that_is_wrong_and_what_that_means(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b"umbra", b"other"))
    shown = does("audit", "verify", status=1)
    assert "commands, entry 2: its hash does not fit its content. It was changed after it was written" in shown
    result = runner.invoke(app, ["audit", "verify", "--json"])
    assert result.exit_code == 1
    assert [fault["number"] for chain in json.loads(result.stdout) for fault in chain["faults"]] == [2]
    assert json.loads(result.stderr)["error"]["code"] == "AUDIT_BROKEN"


def test_verify_without_anything_to_verify(tmp_path: Path) -> None:
    assert "empty" in does("audit", "verify")
    (tmp_path / "no-heads").write_text("nothing")
    assert "names no head" in does("audit", "verify", "--heads", str(tmp_path / "no-heads"), status=1)


def test_verify_checks_events_that_arrived_wherever_it_is_typed(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENGINEHOUSE_HOME")
    monkeypatch.chdir(tmp_path)
    events, lines = tmp_path / "events.jsonl", written.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join([lines[2], lines[1], lines[1]]))
    (chain,) = json.loads(does("audit", "verify", "--events", str(events), "--json"))
    assert (chain["chain"], chain["entries"], chain["first"], chain["faults"]) == ("commands", 2, 2, [])
    events.write_bytes(b"".join([lines[0], lines[2]]))
    assert "missing: 2" in does("audit", "verify", "--events", str(events), status=1)
    events.write_bytes(b"".join([lines[0], lines[1].replace(b"umbra", b"other")]))
    assert "event 2: its hash does not fit" in does("audit", "verify", "--events", str(events), status=1)


def test_moments() -> None:
    for text, span in (("90s", 90), ("30min", 1_800), ("2h", 7_200), ("1 d", 86_400)):
        assert abs(now() - _moment(text) - timedelta(seconds=span)) < timedelta(seconds=20)
    assert _moment("2026-11-26T22:00") == _moment("2026-11-26T23:00+01:00") == datetime(2026, 11, 26, 22, tzinfo=UTC)
    for wrong in ("", "soon", "-2h", "2 weeks", "99:99", "999999d"):
        with pytest.raises(typer.BadParameter, match="write 30min"):
            _moment(wrong)
