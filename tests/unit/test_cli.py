"""The commands without a running stack: inputs, keys, and errors as one line of advice."""

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from tests.support.documents import ROOT
from typer.testing import CliRunner

from enginehouse.cli import engines
from enginehouse.cli.app import app
from enginehouse.cli.failures import advice_of
from enginehouse.cli.inputs import read_input
from enginehouse.client import EngineInfo
from enginehouse.contracts.errors import EnginehouseError, RequestError
from enginehouse.contracts.tenant import Tenant, hash_key
from enginehouse.local.home import Home
from enginehouse.registry.bundle import is_retired
from enginehouse.registry.http.uploads import FolderTooLarge
from enginehouse.registry.tenants import has_key, read_tenants

runner = CliRunner()


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEHOUSE_HOME", str(Home.at(tmp_path / "home").path))
    monkeypatch.delenv("ENGINEHOUSE_URL", raising=False)
    monkeypatch.delenv("ENGINEHOUSE_API_KEY", raising=False)


def stored(tmp_path: Path, name: str) -> Tenant:
    return Tenant.model_validate(yaml.safe_load((tmp_path / "home/tenants" / name / "tenant.yaml").read_text()))


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, None), ("null", None), ('{"a": null}', {"a": None}), ("[1, 2.5]", [1, 2.5]), ('"x"', "x")],
)
def test_an_input_is_json(text: str | None, value: Any) -> None:
    assert read_input(text, []) == value


def test_an_input_comes_from_files(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"dpi": 300, "note": null}')
    (tmp_path / "page.png").write_bytes(b"\x89PNG\xff")
    assert read_input(f"@{tmp_path}/input.json", [f"image={tmp_path}/page.png"]) == {
        "dpi": 300,
        "note": None,
        "image": base64.b64encode(b"\x89PNG\xff").decode(),
    }


@pytest.mark.parametrize(
    "file",
    [ROOT / "engine_template/example.json", *ROOT.glob("services/engines/*/example.json")],
    ids=lambda file: file.parent.name,
)
def test_an_example_is_an_input_as_it_stands(file: Path) -> None:
    assert "input" not in read_input(f"@{file}", [])


@pytest.mark.parametrize("text", ["Hello", "{", "NaN", "-Infinity", "", "@/no/such/file", "@/"])
def test_a_bad_input_says_what_is_wrong(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"JSON|cannot be read"):
        read_input(text, [])


@pytest.mark.parametrize("option", ["page.png", "=page.png", "image=", "image=/no/such/file"])
def test_a_bad_input_file_says_what_is_wrong(option: str) -> None:
    with pytest.raises(typer.BadParameter):
        read_input(None, [option])


def test_an_input_file_needs_an_object_to_be_a_field_of(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="object"):
        read_input("[1]", [f"image={tmp_path}"])


@pytest.mark.parametrize(
    "command",
    [
        ["jobs"],
        ["engines"],
        ["submit", "--input", "1"],
        ["jobs", "show", "x"],
        ["jobs", "follow", "x"],
        ["dead-letters"],
        ["dead-letters", "list", "--unparsable"],
        ["dead-letters", "redrive", "x"],
        ["engines", "quarantine", "acme--ocr", "--reason", "it lies"],
        ["engines", "purge", "acme--ocr"],
    ],
)
def test_without_a_stack_the_way_to_one_is_said_in_a_line(command: list[str]) -> None:
    result = runner.invoke(app, command)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "enginehouse up" in result.stderr


def test_a_stack_that_does_not_answer_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEHOUSE_URL", "http://127.0.0.1:9")
    result = runner.invoke(app, ["jobs"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "Nothing answers at http://127.0.0.1:9" in result.stderr
    assert "enginehouse up" in result.stderr


@pytest.mark.parametrize("url", ["nonsense", "ftp://here", "http://[", "http://a b"])
def test_a_bad_url_is_said_in_a_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEHOUSE_URL", url)
    result = runner.invoke(app, ["jobs"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


def test_a_tenants_key_is_printed_once_and_stored_as_its_hash(tmp_path: Path) -> None:
    result = runner.invoke(app, ["tenant", "add", "acme"])
    assert result.exit_code == 0
    key = result.stdout.strip()
    bundle = (tmp_path / "home/tenants/acme").rglob("*.yaml")
    assert not any(key in path.read_text() for path in bundle)
    (entry,) = stored(tmp_path, "acme").keys
    assert entry.sha256 == hash_key(key)
    assert not entry.admin
    assert (tmp_path / "home/tenants/acme/gateway/subscription.yaml").is_file()


def test_keys_are_added_listed_and_revoked(tmp_path: Path) -> None:
    first = runner.invoke(app, ["tenant", "add", "acme"]).stdout.strip()
    second = json.loads(runner.invoke(app, ["tenant", "add", "acme", "--admin", "--json"]).stdout)["api_key"]
    listed = runner.invoke(app, ["tenant", "list", "--json"])
    (acme,) = json.loads(listed.stdout)
    assert [(second.startswith(key["id"]), key["admin"]) for key in acme["keys"]] == [(False, False), (True, True)]
    assert "sha256" not in listed.stdout
    assert runner.invoke(app, ["tenant", "revoke", "acme", first]).exit_code == 0
    assert [entry.sha256 for entry in stored(tmp_path, "acme").keys] == [hash_key(second)]


@pytest.mark.parametrize("key", ["eh_acme_nosuch", "eh_", "", "x"])
def test_only_exactly_one_key_is_revoked(tmp_path: Path, key: str) -> None:
    for _ in range(2):
        runner.invoke(app, ["tenant", "add", "acme"])
    result = runner.invoke(app, ["tenant", "revoke", "acme", key])
    assert result.exit_code == 1
    assert len(stored(tmp_path, "acme").keys) == 2


@pytest.mark.parametrize("name", ["Acme", "a", "../up", "a--b"])
def test_a_bad_tenant_name_is_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    for command in (["tenant", "add", name], ["tenant", "revoke", name, "eh_x"]):
        result = runner.invoke(app, command)
        assert result.exit_code == 1
        assert "name" in result.stderr
    assert not list((tmp_path / "home/tenants").iterdir())


def test_a_webhook_secret_is_an_existing_tenants(tmp_path: Path) -> None:
    result = runner.invoke(app, ["tenant", "webhook-secret", "nosuch"])
    assert result.exit_code == 1
    assert "whsec_" not in result.output
    assert not (tmp_path / "home/webhook-secrets/nosuch").exists()
    runner.invoke(app, ["tenant", "add", "acme"])
    secret = runner.invoke(app, ["tenant", "webhook-secret", "acme"]).stdout.strip()
    assert (tmp_path / "home/webhook-secrets/acme").read_text().split() == [secret]


@pytest.mark.parametrize(
    ("state", "health", "reason", "said"),
    [
        ("quarantined", "healthy", "again", ["quarantined · healthy", "again"]),
        ("active", "unhealthy", "It keeps ending:\n  SyntaxError\x1b[2J", ["unhealthy", "SyntaxError␛[2J"]),
        ("active", "healthy", None, ["healthy"]),
    ],
)
def test_an_engine_is_never_called_active_and_its_reason_stands_by_itself(
    monkeypatch: pytest.MonkeyPatch, state: str, health: str, reason: str | None, said: list[str]
) -> None:
    found = EngineInfo(id="acme--ocr", state=state, health=health, reason=reason)

    @contextlib.contextmanager
    def connected(home: Path) -> Iterator[Any]:
        yield SimpleNamespace(engine=lambda name: found)

    monkeypatch.setattr(engines, "connected", connected)
    shown = runner.invoke(app, ["engines", "show", "ocr"]).stdout
    assert all(part in shown for part in said)
    assert "active" not in shown
    assert ("reason" in shown) == (reason is not None)


@pytest.mark.parametrize("command", ["submit", "jobs", "engines", "tenant", "dead-letters", "audit"])
def test_help_shows_examples(command: str) -> None:
    assert f"enginehouse {command}" in runner.invoke(app, [command, "--help"]).stdout.partition("Examples")[2]


def test_where_an_owner_is_told_of_its_engines_is_kept_with_its_keys(tmp_path: Path) -> None:
    key = runner.invoke(app, ["tenant", "add", "acme", "--home", str(Home.at(tmp_path).path)]).stdout.strip()
    command = ["tenant", "webhook", "acme", "--home", str(tmp_path)]
    assert runner.invoke(app, [*command, "https://acme.example/hook"]).exit_code == 0
    (tenant,) = read_tenants(tmp_path / "tenants")
    assert tenant.webhook == "https://acme.example/hook"
    assert has_key(tmp_path / "tenants", "acme", key)
    assert runner.invoke(app, [*command, "ftp://acme.example"]).exit_code == 1
    assert runner.invoke(app, command).exit_code == 0
    assert read_tenants(tmp_path / "tenants")[0].webhook is None
    assert runner.invoke(app, ["tenant", "webhook", "nobody", "--home", str(tmp_path)]).exit_code == 1


def test_a_tenants_limits_are_shown_and_set_and_its_work_is_refused_and_taken_again(tmp_path: Path) -> None:
    home = ["--home", str(Home.at(tmp_path).path)]
    runner.invoke(app, ["tenant", "add", "acme", *home])
    answer = runner.invoke(
        app, ["tenant", "limits", "acme", "--jobs-in-flight", "5", "--weight", "2.5", *home, "--json"]
    )
    assert json.loads(answer.stdout)["limits"]["jobs_in_flight"] == 5
    shown = runner.invoke(app, ["tenant", "limits", "acme", *home])
    assert "2.5" in shown.stdout
    assert runner.invoke(app, ["tenant", "limits", "acme", "--weight", "0", *home]).exit_code == 1
    assert read_tenants(tmp_path / "tenants")[0].limits.weight == 2.5
    for command, suspended in (("suspend", True), ("resume", False)):
        assert runner.invoke(app, ["tenant", command, "acme", *home]).exit_code == 0
        assert read_tenants(tmp_path / "tenants")[0].suspended is suspended


@pytest.mark.parametrize("command", [["tenant", "remove", "acme"], ["engines", "remove", "shared--one"]])
def test_what_is_removed_for_good_is_removed_only_when_that_is_confirmed(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Home.at(tmp_path)
    home = ["--home", str(place.path)]
    runner.invoke(app, ["tenant", "add", "acme", *home])
    (place.engines / "shared--one").mkdir()

    def is_leaving() -> bool:
        return read_tenants(place.tenants)[0].removed or is_retired(place.engines / "shared--one")

    refused = runner.invoke(app, [*command, *home], input="y\n")
    assert (refused.exit_code, refused.stdout) == (1, ""), "without a terminal nobody is asked"
    assert "nobody confirmed" in refused.output
    assert "--yes confirms it" in refused.output
    monkeypatch.setattr("enginehouse.cli.confirming._has_terminal", lambda: True)
    for options, typed in (([], "n\n"), ([], ""), (["--json"], "y\n")):
        asked = runner.invoke(app, [*command, *options, *home], input=typed)
        assert asked.exit_code == 1
        assert "nobody confirmed" in asked.output
    assert not is_leaving()
    done = runner.invoke(app, [*command, *home], input="y\n")
    assert "the next 'enginehouse up'" in done.stdout
    assert is_leaving()
    assert runner.invoke(app, [*command, "--yes", *home]).exit_code == 0, "once more changes nothing"


def test_a_shared_engine_is_said_to_be_every_tenants_before_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Home.at(tmp_path).engines / "shared--one").mkdir()
    monkeypatch.setattr("enginehouse.cli.confirming._has_terminal", lambda: True)
    asked = runner.invoke(app, ["engines", "remove", "one", "--home", str(tmp_path)], input="n\n")
    assert "Delete shared--one, which every tenant may use," in asked.stderr


def test_a_version_on_trial_cannot_be_removed_and_what_would_be_right_is_said(tmp_path: Path) -> None:
    place = Home.at(tmp_path)
    (place.engines / "acme--one").mkdir()
    refused = runner.invoke(app, ["engines", "remove", "acme--one@trial", "--yes", "--home", str(tmp_path)])
    assert refused.exit_code == 1
    said = " ".join(refused.output.split())
    for right in ("engines deploy FOLDER", "engines promote acme--one'", "engines remove acme--one'"):
        assert right in said
    assert not is_retired(place.engines / "acme--one")
    named = runner.invoke(app, ["engines", "promote", "acme--one@trial", "--home", str(tmp_path)])
    assert "name the engine, 'acme--one'" in named.output


@pytest.mark.parametrize("command", ["suspend", "limits", "revoke", "webhook-secret", "remove"])
def test_a_tenant_that_does_not_exist_is_said_not_to_exist_whatever_its_name(command: str, tmp_path: Path) -> None:
    more = ["key"] if command == "revoke" else []
    refused = runner.invoke(app, ["tenant", command, "nobody", *more, "--home", str(Home.at(tmp_path).path)])
    assert refused.exit_code == 1
    assert "There is no tenant 'nobody' here" in refused.output
    assert "'enginehouse tenant list' shows the tenants there are" in " ".join(refused.output.split())
    assert "is a reserved name" in runner.invoke(app, ["tenant", "add", "nobody"]).output


def test_the_advice_of_an_error_names_commands_and_no_calls() -> None:
    for kind in kinds_of_errors():
        shown = advice_of(kind("It is wrong"))
        for word in ("/docs shows", "GET /", "Retry-After", "X-Request-Id"):
            assert word not in shown, kind
    assert "'--help'" in advice_of(RequestError("The name is wrong"))
    assert "out of its folder" in advice_of(FolderTooLarge()), "its own advice stays"


def kinds_of_errors(kind: type[EnginehouseError] = EnginehouseError) -> Iterator[type[EnginehouseError]]:
    """Yield the errors that the client rebuilds from answers."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == EnginehouseError.__module__:
            yield from kinds_of_errors(child)
