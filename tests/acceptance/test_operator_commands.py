"""The commands that an operator types when something goes wrong, over a whole running stack."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import Ran, run_command
from tests.support.stack import StackHandle, until

ENGINES = Path(__file__).resolve().parents[1] / "engines"
FAILS, SLEEPS = "tests--raises-in-predict", "tests--sleeps"


@pytest.fixture(scope="module")
def stack(shared_stack: StackHandle) -> StackHandle:
    shared_stack.deploy_all([ENGINES / "raises_in_predict", ENGINES / "sleeps"])
    return shared_stack


def own(stack: StackHandle, tenant: str) -> dict[str, str]:
    return {"ENGINEHOUSE_URL": stack.base_url, "ENGINEHOUSE_API_KEY": stack.keys[tenant]}


def command(stack: StackHandle, *arguments: str, tenant: str = "tests") -> Ran:
    return run_command(stack.home.path, *arguments, variables=own(stack, tenant))


def answer(stack: StackHandle, *arguments: str, tenant: str = "tests") -> Any:
    result = command(stack, *arguments, "--json", tenant=tenant)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def submit(stack: StackHandle, engine: str, value: Any, **body: Any) -> str:
    return str(stack.submit(engine, value, tenant="tests", **body)["id"])


def test_what_was_given_up_is_listed_shown_redriven_and_discarded(stack: StackHandle) -> None:
    job_id = submit(stack, FAILS, "x", retry={"max_attempts": 1})
    (letter,) = [one for one in answer(stack, "dead-letters") if one["id"] == job_id]
    assert (letter["reason"], letter["attempts"], letter["engine"]) == ("PREDICT_ERROR", 1, FAILS)
    assert job_id in command(stack, "dead-letters", "list").stdout
    shown = command(stack, "dead-letters", "show", job_id).stdout
    assert "PREDICT_ERROR" in shown
    again = command(stack, "dead-letters", "redrive", job_id).stdout.strip()
    assert answer(stack, "jobs", "show", again)["retry_of"] == job_id
    assert answer(stack, "dead-letters", "show", job_id)["redriven_as"] == again
    assert answer(stack, "dead-letters", "discard", job_id) == {"id": job_id, "discarded": True}
    gone = command(stack, "dead-letters", "show", job_id)
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert "enginehouse dead-letters" in gone.stderr
    assert answer(stack, "jobs", "show", job_id)["status"] == "failed"


def test_what_is_nobodys_is_for_operators_only(stack: StackHandle) -> None:
    refused = command(stack, "dead-letters", "--unparsable")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert answer(stack, "dead-letters", "--unparsable", tenant="demo") == []


def test_an_engine_is_quarantined_emptied_and_resumed(stack: StackHandle) -> None:
    assert command(stack, "engines", "quarantine", SLEEPS, "--reason", "no").returncode == 1
    stopped = answer(stack, "engines", "quarantine", SLEEPS, "--reason", "it lies", tenant="demo")
    assert (stopped["state"], stopped["reason"]) == ("quarantined", "it lies")
    assert f"{SLEEPS}: it lies" in command(stack, "engines").stdout
    purged, kept = submit(stack, SLEEPS, {"seconds": 0}, wait=0), ""
    until(lambda: answer(stack, "jobs", "show", purged)["status_reason"] == "engine_paused", "the job waits")
    assert answer(stack, "engines", "purge", SLEEPS, tenant="demo") == {"engine": SLEEPS, "canceled": 1}
    kept = submit(stack, SLEEPS, {"seconds": 0}, wait=0)
    said = command(stack, "engines", "resume", SLEEPS, tenant="demo")
    assert f"{SLEEPS} is active" in said.stdout
    assert stack.call("GET", f"/v1/jobs/{kept}?wait=30", tenant="tests").body["status"] == "succeeded"
    assert answer(stack, "jobs", "show", purged)["status"] == "canceled"
    acts = answer(stack, "audit", "--engine", SLEEPS, "--action", "POST /v1/engines/{engine}/")
    assert [
        (act["by"], act["action"].rpartition("/")[2], act["outcome"]) for act in acts if "jobs" not in act["action"]
    ] == [
        ("demo", "resume", "ok"),
        ("demo", "purge", "ok"),
        ("demo", "quarantine", "ok"),
        ("tests", "quarantine", "FORBIDDEN"),
    ]


def test_a_job_is_followed_to_its_end(stack: StackHandle) -> None:
    job_id = submit(stack, SLEEPS, {"seconds": 2}, wait=0)
    followed = command(stack, "jobs", "follow", job_id)
    assert followed.returncode == 0, followed.stderr
    lines = followed.stdout.splitlines()
    assert lines[0].split() == ["start", "attempt", "1"]
    assert lines[1].split() == ["completed", "succeeded"]
    assert json.loads("".join(lines[2:])) == {"slept": 2}
    told = command(stack, "jobs", "follow", submit(stack, FAILS, "x", retry={"max_attempts": 1}), "--json")
    assert [json.loads(line)["kind"] for line in told.stdout.splitlines()] == ["start", "completed"]
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)


def test_ctrl_c_ends_the_following_and_not_the_job(stack: StackHandle) -> None:
    job_id = submit(stack, SLEEPS, {"seconds": 60}, wait=0)
    following = subprocess.Popen(
        [sys.executable, "-m", "enginehouse.cli.main", "jobs", "follow", job_id],
        env={**os.environ, "ENGINEHOUSE_HOME": str(stack.home.path), **own(stack, "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    assert "attempt 1" in following.stdout.readline()
    following.send_signal(signal.SIGINT)
    rest, said = following.communicate(timeout=10)
    assert (following.returncode, rest) == (130, "")
    assert said.count("\n") == 1
    assert "goes on" in said
    assert answer(stack, "jobs", "show", job_id)["status"] == "running"
    assert answer(stack, "jobs", "cancel", job_id)["status"] == "canceled"
