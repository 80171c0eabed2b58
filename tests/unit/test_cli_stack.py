"""The commands about local processes when nothing runs. An error is a sentence, never a traceback."""

import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from enginehouse.cli.app import app
from enginehouse.cli.console import TerminalSteps, out, print_lines
from enginehouse.cli.stack import parse_engine_names
from enginehouse.local.home import Home
from enginehouse.registry.bundle import is_retired

_RUN = CliRunner()


def test_status_and_down_where_nothing_runs(tmp_path: Path) -> None:
    Home.at(tmp_path)
    status = _RUN.invoke(app, ["status", "--home", str(tmp_path), "--json"])
    assert (status.exit_code, json.loads(status.stdout)) == (1, {"running": False})
    down = _RUN.invoke(app, ["down", "--home", str(tmp_path)])
    assert down.exit_code == 0
    assert "Nothing is running" in down.stdout


_ENGINE = "tenant: demo\nname: one\nrun: {command: [serve]}\n"


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("engines", "sources")
        for path in (folder / part).rglob("*")
        if path.is_file()
    }


def test_fewer_replicas_at_most_than_at_least_are_refused(tmp_path: Path) -> None:
    (tmp_path / "engine.yaml").write_text(_ENGINE)
    home = Home.at(tmp_path / "home")

    def deploy(*options: str) -> tuple[int, str]:
        done = _RUN.invoke(app, ["engines", "deploy", str(tmp_path), *options, "--home", str(home.path)])
        return done.exit_code, " ".join(done.output.split())

    status, said = deploy("--min", "3", "--max", "2")
    assert status == 1
    assert "with the options given: scale.max: 2 is less than min, which is 3" in said
    assert not list(home.engines.iterdir())
    assert deploy("--min", "2")[0] == 0


def test_what_is_rendered_is_what_deploy_writes(tmp_path: Path) -> None:
    folder, home, rendered = tmp_path / "one", Home.at(tmp_path / "home").path, tmp_path / "rendered"
    folder.mkdir()
    for version in ("v1", "v2"):
        (folder / "engine.yaml").write_text(f"{_ENGINE}version: {version}\n")
        assert _RUN.invoke(app, ["engines", "deploy", str(folder), "--home", str(home)]).exit_code == 0
        shown = _RUN.invoke(app, ["engines", "render", str(folder), "--into", str(rendered), "--json"])
        assert shown.exit_code == 0
        assert _files(rendered) == _files(home)
        assert set(json.loads(shown.stdout)["files"]) == {name for name in _files(home) if name.startswith("engines/")}
    assert "engines/demo--one/slots/b/engine.yaml" in _files(home)


def test_an_engine_is_deployed_and_removed(tmp_path: Path) -> None:
    source, home = tmp_path / "source", Home.at(tmp_path / "home").path
    source.mkdir()
    (source / "engine.yaml").write_text(_ENGINE)
    deployed = _RUN.invoke(app, ["engines", "deploy", str(source), "--home", str(home)])
    assert deployed.exit_code == 0, deployed.output
    assert (home / "engines" / "demo--one" / "slots" / "a" / "dapr" / "jobs.yaml").is_file()
    assert _RUN.invoke(app, ["engines", "remove", "demo--one", "--yes", "--home", str(home)]).exit_code == 0
    assert is_retired(home / "engines" / "demo--one"), "what runs it deletes it, once its jobs have ended"
    again = _RUN.invoke(app, ["engines", "remove", "demo--two", "--home", str(home)])
    assert again.exit_code == 1
    assert "is not deployed here" in again.output


@pytest.mark.parametrize(
    ("text", "said"),
    [("tenant: acme", "name: is missing"), ("tenant: kube-x\nname: one", "reserved"), ("[", "is not YAML")],
)
def test_a_wrong_engine_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "engine.yaml").write_text(text)
    refused = _RUN.invoke(app, ["engines", "deploy", str(tmp_path), "--home", str(Home.at(tmp_path / "home").path)])
    assert refused.exit_code == 1
    assert said in refused.output
    assert "Traceback" not in refused.output


def test_a_taken_port_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginehouse.local.running.is_free", lambda port: False)
    taken = _RUN.invoke(app, ["up", "--home", str(tmp_path), "--engines", "none"])
    assert taken.exit_code == 1
    assert "Choose another: --port" in taken.output


def test_a_sandbox_is_for_containers_only(tmp_path: Path) -> None:
    for command in ("up", "demo"):
        refused = _RUN.invoke(app, [command, "--home", str(tmp_path), "--sandbox", "gvisor"])
        assert refused.exit_code == 2
        assert "add --containers" in refused.output


def test_which_platform_engines_are_meant() -> None:
    assert parse_engine_names("all") is None
    assert parse_engine_names("none") == []
    assert parse_engine_names("shared--standard, embedding") == ["standard", "embedding"]
    with pytest.raises(typer.BadParameter, match="'shared/standard' is none of embedding, ocr, standard"):
        parse_engine_names("shared/standard")


def test_what_a_process_prints_cannot_steer_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "acme--one--a.engine-0.log"
    log.write_bytes("[red]plain\x1b[2J ünï\n".encode() + b"half a li")
    with out.capture() as captured:
        end = print_lines(log, 0)
    assert "[red]plain␛[2J ünï" in captured.get()
    assert "half" not in captured.get()
    assert log.read_bytes()[end:] == b"half a li"


def test_steps_are_plain_lines_where_there_is_no_terminal() -> None:
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured, TerminalSteps(console) as steps:
        for done in range(5):
            steps.update("a", "building", done, 10)
        steps.finish("a", "built")
    assert captured.get().splitlines() == ["… building (0 %)", "✓ built"]
