"""Commands and the Python client find the home of a deployment as git finds a repository."""

import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from enginehouse import homes
from enginehouse.cli.app import app
from enginehouse.client import AsyncClient, Client
from enginehouse.homes import NoHome, find_access, find_home
from enginehouse.local.home import Home

_RUN = CliRunner()
LOCAL = {"url": "http://127.0.0.1:18080", "tenant": "demo", "api_key": "eh_local"}


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go into the folder of an engine, three folders below the one where `home` makes a home."""
    for name in ("ENGINEHOUSE_HOME", "ENGINEHOUSE_URL", "ENGINEHOUSE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "work" / "engines" / "my-engine"
    folder.mkdir(parents=True)
    (folder / "engine.yaml").write_text("tenant: demo\nname: my-engine\nrun: {command: [serve]}\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = Home.at(tmp_path / ".enginehouse")
    made.local_json.write_text(json.dumps(LOCAL))
    return made.path


def test_deploy_inside_of_the_engines_folder_finds_the_home_above(home: Path, engine: Path) -> None:
    deployed = _RUN.invoke(app, ["engines", "deploy", "."])
    assert deployed.exit_code == 0, deployed.output
    assert (home / "engines" / "demo--my-engine" / "slots" / "a" / "engine.yaml").is_file()
    assert sorted(path.name for path in engine.iterdir()) == ["engine.yaml"]


NEED_A_HOME = {
    "engines deploy .",
    "engines remove demo--my-engine",
    "tenant add acme",
    "tenant list",
    "tenant webhook-secret acme",
    "engines",
    "jobs",
    "submit standard --input 1",
    "dead-letters",
    "status",
    "status --json",
    "down",
}


@pytest.mark.parametrize("command", sorted(NEED_A_HOME))
def test_a_command_without_a_home_says_what_it_looked_for_and_makes_none(command: str, engine: Path) -> None:
    refused = _RUN.invoke(app, command.split())
    assert refused.exit_code == 1
    assert f"no .enginehouse in {engine} or in a folder above it" in refused.output
    for remedy in ("'make up'", "--home"):
        assert remedy in refused.output
    assert not (engine / ".enginehouse").exists()


@pytest.mark.parametrize("command", sorted(NEED_A_HOME))
def test_a_home_that_is_named_and_is_none_is_refused_and_not_made(command: str, tmp_path: Path) -> None:
    named = tmp_path / "typo"
    refused = _RUN.invoke(app, [*command.split(), "--home", str(named)])
    assert refused.exit_code == 1
    assert f"{named} is not the home of an Enginehouse" in refused.output
    assert not named.exists()


@pytest.mark.parametrize("command", ["up --engines none", "demo"])
def test_up_and_demo_use_the_home_above_or_make_one_here(
    command: str, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginehouse.local.running.is_free", lambda port: False)
    assert "Choose another: --port" in _RUN.invoke(app, command.split()).output
    assert (engine / ".enginehouse" / "engines").is_dir()
    below = engine / "models"
    below.mkdir()
    monkeypatch.chdir(below)
    assert "Choose another: --port" in _RUN.invoke(app, command.split()).output
    assert list(below.iterdir()) == []


@pytest.mark.parametrize("command", ["up", "demo", "down", "status", "jobs", "engines", "engines deploy", "tenant add"])
def test_help_says_where_the_home_is_looked_for(command: str) -> None:
    shown = _RUN.invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "the nearest .enginehouse, in this folder or one above it" in re.sub(r"[│\s]+", " ", shown)


def test_deploying_with_only_a_url_says_that_it_is_not_possible_over_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENGINEHOUSE_URL", "https://enginehouse.example")
    for command in (["engines", "deploy", "."], ["tenant", "add", "acme"]):
        refused = _RUN.invoke(app, command)
        assert refused.exit_code == 1
        assert "https://enginehouse.example" in refused.output
        assert "this command changes a home on this machine" in refused.output


def test_a_home_that_is_only_near_is_not_changed_while_the_url_means_another_platform(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEHOUSE_URL", "https://enginehouse.example")
    assert _RUN.invoke(app, ["engines", "deploy", "."]).exit_code == 1
    assert _RUN.invoke(app, ["engines", "deploy", "."], env={"ENGINEHOUSE_HOME": str(home)}).exit_code == 1
    assert not list((home / "engines").iterdir())
    assert _RUN.invoke(app, ["engines", "deploy", ".", "--home", str(home)]).exit_code == 0
    monkeypatch.setenv("ENGINEHOUSE_URL", f"{LOCAL['url']}/")
    assert _RUN.invoke(app, ["engines", "deploy", "."]).exit_code == 0


def test_the_nearest_home_counts(home: Path, engine: Path) -> None:
    nearer = Home.at(engine.parent / ".enginehouse")
    (engine / ".enginehouse").mkdir()  # Not a home: it is empty.
    assert find_home() == nearer.path


@pytest.mark.parametrize("foreign", ["folder", "link", "file"])
def test_a_home_of_another_user_is_refused_unless_it_is_named(
    foreign: str, home: Path, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if foreign == "link":
        (engine / ".enginehouse").symlink_to(home)
    odd = {"folder": home, "link": engine / ".enginehouse", "file": home / "local.json"}[foreign]
    real, other = Path.lstat, os.geteuid() + 1

    def lstat(path: Path) -> os.stat_result:
        fields = list(real(path))
        return os.stat_result([*fields[:4], other, *fields[5:]]) if path == odd else real(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(NoHome, match="belongs to another user"):
        find_home()
    with pytest.raises(NoHome, match="belongs to another user"):
        Client()
    for command in ("up", "engines deploy ."):
        assert "belongs to another user" in _RUN.invoke(app, command.split()).output
    assert find_home(home) == home
    monkeypatch.setenv("ENGINEHOUSE_HOME", str(home))
    assert find_home() == home


def test_the_client_and_the_commands_find_url_and_key_alike(home: Path) -> None:
    assert find_access() == (LOCAL["url"], LOCAL["api_key"])
    with Client() as client:
        assert client.url == LOCAL["url"]
        assert client._transport._authorization == {"authorization": "Bearer eh_local"}
    assert AsyncClient(home=home).url == LOCAL["url"]


def test_a_key_goes_only_to_the_url_that_it_came_with(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_access("https://elsewhere.example/") == ("https://elsewhere.example", "")
    assert find_access(f"{LOCAL['url']}/") == (LOCAL["url"], "eh_local")
    for near in (f"{LOCAL['url']}0", LOCAL["url"].replace("http", "https"), f"{LOCAL['url']}@evil.example"):
        assert find_access(near).api_key == ""
    monkeypatch.setenv("ENGINEHOUSE_URL", "https://elsewhere.example")
    assert find_access() == ("https://elsewhere.example", "")
    with Client() as client:
        assert client._transport._authorization == {}
    assert find_access(LOCAL["url"]).api_key == "eh_local"


def test_what_is_given_comes_before_the_environment_and_that_before_the_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEHOUSE_API_KEY", "eh_acme")
    assert find_access() == (LOCAL["url"], "eh_acme")
    assert find_access(None, "eh_given") == (LOCAL["url"], "eh_given")
    monkeypatch.setenv("ENGINEHOUSE_URL", "https://elsewhere.example")
    assert find_access() == ("https://elsewhere.example", "eh_acme")
    assert find_access("http://given.example", "eh_given") == ("http://given.example", "eh_given")


def test_a_home_in_which_nothing_has_run_gives_no_access(tmp_path: Path) -> None:
    Home.at(tmp_path / ".enginehouse")
    with pytest.raises(NoHome, match="has run"):
        Client()


def test_a_working_folder_that_is_gone_is_no_home(engine: Path) -> None:
    (engine / "engine.yaml").unlink()
    engine.rmdir()
    with pytest.raises(NoHome):
        homes.find_home()
