"""Waiting for a job in sight, names and completion: what a user does with the command from one moment to the next."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.support import cli_data
from tests.support.cli_data import IDS, MemoryClient
from typer.testing import CliRunner

from enginehouse.cli import connection, options, waiting
from enginehouse.cli.app import app
from enginehouse.cli.running import run
from enginehouse.client.models import EngineInfo
from enginehouse.contracts.job import Job

RUN = CliRunner()
WAIT = ["submit", "standard", "--input", "{}", "--wait"]


def use(monkeypatch: pytest.MonkeyPatch, client: MemoryClient) -> MemoryClient:
    monkeypatch.setattr(connection, "Client", lambda **given: client)
    monkeypatch.setattr(options, "Client", lambda **given: client)
    return client


def test_a_wait_shows_the_id_at_once_then_the_status_then_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, MemoryClient(waits=2))
    result = RUN.invoke(app, WAIT)
    assert json.loads(result.stdout) == cli_data.JOBS[3].output
    accepted, *rest = result.stderr.splitlines()
    assert accepted == f"Accepted by shared--standard: {IDS[3]}"
    assert rest[0].startswith("… succeeded for 0 s")
    assert rest[-1].startswith("✓ succeeded after")


def test_a_wait_says_once_what_is_wrong_with_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting(MemoryClient):
        def job(self, job_id: str) -> Job:
            return super().job(job_id if self.waits < 0 else IDS[0])

        def engine(self, name: str) -> EngineInfo:
            return super().engine(name).model_copy(update={"reason": "Its process keeps ending: SyntaxError"})

    use(monkeypatch, Waiting(waits=3))
    monkeypatch.setattr(waiting, "_TELL_SECONDS", 0)
    result = RUN.invoke(app, WAIT)
    assert result.stderr.count("shared--standard: Its process keeps ending: SyntaxError") == 1
    use(monkeypatch, Waiting(waits=3))
    assert "SyntaxError" not in RUN.invoke(app, [*WAIT, "--json"]).stderr


@pytest.mark.parametrize("command", [WAIT, ["jobs", "follow", IDS[3]]])
def test_after_ctrl_c_the_job_goes_on_and_the_command_says_how_to_find_and_end_it(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = use(monkeypatch, MemoryClient(interrupted=True))
    monkeypatch.setattr(client, "events", lambda job_id: client.wait(job_id))
    result = RUN.invoke(app, command)
    assert (result.exit_code, result.stdout) == (130, "")
    assert f"the job goes on. 'enginehouse jobs follow {IDS[3]}'" in result.stderr
    assert f"'enginehouse jobs cancel {IDS[3]}' ends it" in result.stderr


def test_with_json_the_error_of_a_wait_is_the_only_thing_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, MemoryClient(waits=1, interrupted=True))
    result = RUN.invoke(app, [*WAIT, "--json"])
    error = json.loads(result.stderr)["error"]
    assert (result.exit_code, result.stdout, error["code"]) == (130, "", "INTERRUPTED")
    assert IDS[3] in error["detail"]


def test_with_json_a_deploy_that_fails_writes_one_document_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENGINEHOUSE_HOME", str(tmp_path))
    (tmp_path / "engines").mkdir()
    (tmp_path / "engine.yaml").write_text("tenant: stranger\nname: one\n")
    result = RUN.invoke(app, ["engines", "deploy", str(tmp_path), "--json"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no tenant 'stranger' here" in json.loads(result.stderr)["error"]["detail"]


def test_a_wait_that_is_over_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, MemoryClient(waits=9))
    result = RUN.invoke(app, [*WAIT, "--timeout", "0"])
    assert result.exit_code == 1
    assert "still running after the time to wait" in result.stderr


@pytest.mark.parametrize("command", [["quarantine", "--reason", "x"], ["resume"], ["purge"]])
def test_an_engine_is_operated_by_the_name_that_shows_it(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    client = use(monkeypatch, MemoryClient())
    name, *rest = command
    for given in ("standard", "shared--standard"):
        assert RUN.invoke(app, ["engines", name, given, *rest]).exit_code == 0
    assert client.called == [(name, "shared--standard")] * 2
    unknown = RUN.invoke(app, ["engines", name, "nosuch", *rest])
    assert unknown.exit_code == 1
    assert "No engine 'nosuch'" in unknown.stderr


def test_an_engine_is_removed_by_its_name_and_one_of_several_must_be_named_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEHOUSE_HOME", str(tmp_path))
    for bundle in ("demo--ocr", "shared--ocr", "acme--scan", "globex--scan"):
        (tmp_path / "engines" / bundle).mkdir(parents=True)
    result = RUN.invoke(app, ["engines", "remove", "ocr", "--yes", "--json"])
    assert json.loads(result.stdout) == {"id": "demo--ocr", "removed": False}, "the next 'up' ends it"
    unclear = RUN.invoke(app, ["engines", "remove", "scan"])
    assert unclear.exit_code == 1
    assert "it may be acme--scan or globex--scan: give the whole id" in unclear.stderr
    assert RUN.invoke(app, ["engines", "remove", "acme--scan", "--yes"]).exit_code == 0


def completed(line: str) -> list[str]:
    environment = {"_ENGINEHOUSE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    return RUN.invoke(app, [], prog_name="enginehouse", env=environment).stdout.split()


def test_the_shell_completes_commands_engines_and_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, MemoryClient())
    assert completed("enginehouse engi") == ["engines"]
    assert completed("enginehouse engines show sha") == ["shared--standard"]
    assert completed("enginehouse jobs show 0") == IDS


def test_completion_is_silent_where_nothing_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGINEHOUSE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ENGINEHOUSE_API_KEY", "eh_x")
    assert completed("enginehouse engines show sha") == []
    monkeypatch.delenv("ENGINEHOUSE_URL")
    monkeypatch.setenv("ENGINEHOUSE_HOME", str(tmp_path / "nowhere"))
    assert completed("enginehouse engines remove sha") == []


def test_the_version_is_that_of_the_package() -> None:
    assert RUN.invoke(app, ["--version"]).stdout == "enginehouse 0.1.0\n"


@pytest.mark.parametrize(
    ("number", "is_service", "status"),
    [
        (signal.SIGTERM, True, 0),
        (signal.SIGTERM, False, 130),
        (signal.SIGINT, True, 130),
        (signal.SIGINT, False, 130),
    ],
)
def test_a_service_that_is_told_to_stop_has_done_its_work(
    number: signal.Signals, is_service: bool, status: int
) -> None:
    async def main() -> None:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    with pytest.raises(typer.Exit) as ended:
        run(main(), is_service=is_service)
    assert ended.value.exit_code == status


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_process_whose_terminal_lacks_a_character_shows_another(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    code = "\n".join(
        (
            "from enginehouse.cli.console import TerminalSteps, prepare_streams, say, print_exactly",
            "prepare_streams()",
            "steps = TerminalSteps()",
            "steps.update('a', 'cosine 1·2'); steps.finish('a', 'up'); say('1·2 … Ω \\ud800'); print_exactly('✓')",
        )
    )
    environment: dict[str, Any] = {**os.environ, "PYTHONIOENCODING": encoding}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    shown = (result.stdout + result.stderr).decode(encoding)
    assert "Traceback" not in shown
    assert shown.split("\n")[0] == {"ascii": "1-2 ... ? ?", "latin-1": "1·2 ... ? ?", "utf-8": "1·2 … Ω �"}[encoding]
