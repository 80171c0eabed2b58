"""An engine is deployed to another Enginehouse through its registry, and its progress or failure is seen from here."""

import json
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from tests.support.dapr import PORTS
from tests.support.registry import registry_settings
from tests.support.serving import serving
from tests.support.waiting import until
from typer.testing import CliRunner, Result

from enginehouse.cli.app import app
from enginehouse.registry.http.api import create_api
from enginehouse.registry.secrets import secrets_file
from enginehouse.registry.snapshot import only_deployer
from enginehouse.registry.tenants import add_key, revoke_key
from enginehouse.registry.versions import fingerprint, read_versions
from enginehouse.registry.views import Difference

_ENGINE = "demo--one"
runner = CliRunner()


class _Elsewhere:
    """Another Enginehouse: its home, its registry, and what its supervisor would say."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.url = home, f"http://127.0.0.1:{port}"
        self.engines, self.tenants, self.state = home / "engines", home / "tenants", home / "state.json"
        self.engines.mkdir(parents=True)
        self.key = add_key(self.tenants, "demo", admin=True)
        self.api = create_api(registry_settings(home))

    def says(self, kind: str, state: str, problem: str | None = None) -> None:
        versions = read_versions(self.engines / _ENGINE)
        slot = versions.trial if kind == "trials" else versions.active
        assert slot
        entry = {"state": state, "problem": problem, "doing": None}
        entry["deployed"] = fingerprint(self.engines / _ENGINE, slot)
        draft = self.state.with_suffix(".new")
        draft.write_text(json.dumps({kind: {_ENGINE: entry}}))
        draft.replace(self.state)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Elsewhere]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = _Elsewhere(tmp_path / "elsewhere", port := PORTS.take())
    with serving(made.api, port):
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "one"
    made.mkdir()
    (made / "engine.yaml").write_text("tenant: demo\nname: one\nrun: {command: [serve]}\n")
    return made


def _add(elsewhere: _Elsewhere) -> None:
    added = _tried(elsewhere.url, elsewhere.key)
    assert added.exit_code == 0, added.output


def _tried(url: str, key: str) -> Result:
    return runner.invoke(app, ["environments", "add", "staging", url], input=f"{key}\n")


def _deploy(folder: Path, meanwhile: Callable[[], None]) -> tuple[int, str]:
    """Deploy, and return the exit status and the output. `meanwhile` runs at the same time."""
    thread = threading.Thread(target=meanwhile)
    thread.start()
    done = runner.invoke(app, ["engines", "deploy", str(folder), "--to", "staging"])
    thread.join()
    return done.exit_code, done.output


def test_a_key_is_its_owners_alone_and_never_shown(elsewhere: _Elsewhere, tmp_path: Path) -> None:
    _add(elsewhere)
    file = tmp_path / "config" / "enginehouse" / "environments.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    listed = runner.invoke(app, ["environments"]).output
    assert elsewhere.url in listed
    assert elsewhere.key not in listed
    assert elsewhere.key not in runner.invoke(app, ["environments", "--json"]).output
    assert runner.invoke(app, ["environments", "remove", "staging"]).exit_code == 0
    assert elsewhere.key not in file.read_text()


@pytest.mark.parametrize(
    "url", ["http://registry.example", "registry.example", "ftp://127.0.0.1", "https://a:b@c.example"]
)
def test_no_key_is_sent_where_others_could_read_it(elsewhere: _Elsewhere, url: str) -> None:
    refused = runner.invoke(app, ["environments", "add", "staging", url], input="eh_demo_key\n")
    assert refused.exit_code == 1
    assert "No environments" in runner.invoke(app, ["environments"]).output


def test_the_first_version_is_followed_until_it_runs(elsewhere: _Elsewhere, folder: Path) -> None:
    _add(elsewhere)

    def come_up() -> None:
        until(lambda: (elsewhere.engines / _ENGINE).is_dir(), "it is deployed there")
        elsewhere.says("engines", "starting")
        elsewhere.says("engines", "running")

    status, said = _deploy(folder, come_up)
    assert status == 0, said
    assert f"{_ENGINE} v1 works at staging" in said
    again = runner.invoke(app, ["engines", "add", str(folder), "--to", "staging", "--json"])
    assert json.loads(again.stdout)["changed"] is False


def test_a_deployment_that_takes_long_there_is_not_said_to_be_out_of_reach(
    elsewhere: _Elsewhere, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(elsewhere)
    monkeypatch.setattr("enginehouse.cli.registry_calls._UPLOAD_SECONDS", 3)
    with only_deployer(elsewhere.engines):
        done = runner.invoke(app, ["engines", "deploy", str(folder), "--to", "staging"])
    assert done.exit_code == 1
    assert "has not answered for 0.05 minutes" in " ".join(done.output.split())


def test_a_version_that_does_not_work_there_is_seen_here(elsewhere: _Elsewhere, folder: Path) -> None:
    _add(elsewhere)
    assert runner.invoke(app, ["engines", "deploy", str(folder), "--to", "staging", "--no-wait"]).exit_code == 0
    (folder / "new.py").write_text("")

    def fail() -> None:
        until(lambda: read_versions(elsewhere.engines / _ENGINE).trial, "the new version is on trial")
        elsewhere.says("trials", "failed", "It keeps ending. Its last lines:\nSyntaxError")

    status, said = _deploy(folder, fail)
    assert status == 1
    assert "SyntaxError" in said


def test_what_the_registry_refuses_is_said_here(elsewhere: _Elsewhere, folder: Path) -> None:
    assert "There is no environment" in runner.invoke(app, ["engines", "deploy", str(folder), "--to", "staging"]).output
    _add(elsewhere)
    revoke_key(elsewhere.tenants, "demo", elsewhere.key)
    assert "not known" in runner.invoke(app, ["engines", "deploy", str(folder), "--to", "staging"]).output
    elsewhere.key = add_key(elsewhere.tenants, "demo", admin=True)
    _add(elsewhere)
    (folder / "engine.yaml").write_text("tenant: acme\nname: one\nrun: {command: [serve]}\n")
    refused = runner.invoke(app, ["engines", "deploy", str(folder), "--to", "staging"])
    assert refused.exit_code == 1
    assert "there is no tenant 'acme'" in refused.output
    assert not list(elsewhere.engines.iterdir())


def test_a_registry_that_is_away_is_named(elsewhere: _Elsewhere, folder: Path, tmp_path: Path) -> None:
    _add(elsewhere)
    away = f"http://127.0.0.1:{PORTS.take()}"
    file = tmp_path / "config" / "enginehouse" / "environments.json"
    file.write_text(file.read_text().replace(elsewhere.url, away))
    refused = runner.invoke(app, ["engines", "deploy", str(folder), "--to", "staging"])
    assert f"{away} cannot be reached" in refused.output


def test_an_environment_is_tried_before_it_is_kept(elsewhere: _Elsewhere) -> None:
    plain = add_key(elsewhere.tenants, "acme")
    for url, key, said in [
        (elsewhere.url, "eh_demo_wrong", "The API key is not known"),
        (elsewhere.url, "eh_nobody_wrong", "The API key is not known"),
        (elsewhere.url, "wrong", "no key of an Enginehouse"),
        (elsewhere.url, "eh_demo_wröng", "no key of an Enginehouse"),
        (elsewhere.url, plain, "needs an operator's key"),
        (f"{elsewhere.url}/docs", elsewhere.key, "does not answer as a registry does"),
        (f"http://127.0.0.1:{PORTS.take()}", elsewhere.key, "cannot be reached"),
    ]:
        refused = _tried(url, key)
        assert refused.exit_code == 1
        assert said in " ".join(refused.output.split()), refused.output
        assert key not in refused.output or key == "wrong"
    assert "No environments" in runner.invoke(app, ["environments"]).output


def test_a_web_site_is_no_registry(elsewhere: _Elsewhere) -> None:
    site, port = FastAPI(), PORTS.take()
    site.add_api_route("/{path:path}", lambda path: HTMLResponse("<html>"))
    with serving(site, port):
        refused = _tried(f"http://127.0.0.1:{port}", elsewhere.key)
    assert (refused.exit_code, "does not answer as a registry does" in " ".join(refused.output.split())) == (1, True)


def test_a_secret_is_set_there_from_standard_input(elsewhere: _Elsewhere, folder: Path) -> None:
    _add(elsewhere)
    (folder / "engine.yaml").write_text("tenant: demo\nname: one\nrun: {command: [serve]}\nsecrets: [TOKEN]\n")
    assert runner.invoke(app, ["engines", "deploy", str(folder), "--to", "staging", "--no-wait"]).exit_code == 0

    def secret(*arguments: str, value: str = "") -> Result:
        return runner.invoke(app, ["engines", "secret", *arguments, "--to", "staging"], input=value)

    done = secret("set", "demo/one", "TOKEN", value="hidden-värde\n")
    assert (done.exit_code, "is set" in done.output) == (0, True), done.output
    assert json.loads(secrets_file(elsewhere.home, _ENGINE).read_text()) == {"TOKEN": "hidden-värde"}
    assert "already" in secret("set", "demo/one", "TOKEN", value="hidden-värde").output
    assert secret("list", "demo/one").stdout == "TOKEN\n"
    binary = runner.invoke(app, ["engines", "secret", "set", "demo/one", "TOKEN", "--to", "staging"], input=b"\xff\xfe")
    assert (binary.exit_code, "is not UTF-8 text" in binary.output) == (1, True)
    wrong = secret("set", "demo/one", "TOKNE", value="hidden-värde")
    assert (wrong.exit_code, "did you mean TOKEN?" in " ".join(wrong.output.split())) == (1, True)
    assert secret("rm", "demo/one", "TOKEN").exit_code == 0
    assert secret("rm", "demo/one", "TOKEN").exit_code == 1


def test_a_version_is_promoted_there_and_followed_until_it_serves(elsewhere: _Elsewhere, folder: Path) -> None:
    _add(elsewhere)
    deploy = ["engines", "deploy", str(folder), "--to", "staging", "--no-wait"]
    assert runner.invoke(app, deploy).exit_code == 0
    (folder / "new.py").write_text("")
    assert runner.invoke(app, [*deploy, "--no-promote"]).exit_code == 0
    for kind in ("engines", "trials"):
        elsewhere.says(kind, "running")

    def serve() -> None:
        until(lambda: read_versions(elsewhere.engines / _ENGINE).active == "b", "it is promoted there")
        elsewhere.says("engines", "running")

    thread = threading.Thread(target=serve)
    thread.start()
    done = runner.invoke(app, ["engines", "promote", "demo/one", "--to", "staging"])
    thread.join()
    assert (done.exit_code, "works at staging" in done.output) == (0, True), done.output


class _Cluster:
    """What a registry says about a cluster."""

    def __init__(self) -> None:
        self.found: list[Difference] = []

    async def differences(self, engine_id: str) -> list[Difference]:
        return self.found


def test_what_differs_in_a_cluster_is_shown_and_exits_with_one(elsewhere: _Elsewhere, folder: Path) -> None:
    _add(elsewhere)
    assert runner.invoke(app, ["engines", "deploy", str(folder), "--to", "staging", "--no-wait"]).exit_code == 0
    diff = ["engines", "diff", "demo/one", "--to", "staging"]
    without = runner.invoke(app, diff)
    assert (without.exit_code, "does not deploy into a cluster" in without.output) == (1, True)
    cluster = _Cluster()
    elsewhere.api.state.registry = replace(elsewhere.api.state.registry, cluster=cluster)
    same = runner.invoke(app, diff)
    assert (same.exit_code, "exactly as its bundle says" in " ".join(same.output.split())) == (0, True), same.output
    cluster.found = [
        Difference(object="Service tenant-demo/demo--one--a", change="missing"),
        Difference(object="NetworkPolicy tenant-demo/demo--one--a", change="changed", diff="-  - {}\n+  - from: []"),
    ]
    differs = runner.invoke(app, diff)
    assert differs.exit_code == 1
    assert differs.output.splitlines() == [
        "Service tenant-demo/demo--one--a: missing",
        "NetworkPolicy tenant-demo/demo--one--a: changed",
        "-  - {}",
        "+  - from: []",
    ]
