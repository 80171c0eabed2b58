"""The workflows of GitHub do only what they must: pinned actions, least rights, and no text of strangers in a script."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

_FOLDER = Path(__file__).resolve().parents[2] / ".github" / "workflows"
_FILES = sorted(_FOLDER.glob("*.yml"))
_WORKFLOWS: dict[str, dict[Any, Any]] = {path.name: yaml.safe_load(path.read_text()) for path in _FILES}
_JOBS = [(name, job) for name, workflow in _WORKFLOWS.items() for job in workflow["jobs"]]


def _job(name: str, job: str) -> dict[str, Any]:
    found: dict[str, Any] = _WORKFLOWS[name]["jobs"][job]
    return found


@pytest.mark.skipif(
    shutil.which("actionlint") is None, reason="actionlint is not here; 'make manifests' runs it with Go"
)
def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(["actionlint", *_FILES], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_action_is_pinned_by_its_commit_and_says_its_version() -> None:
    used = re.findall(r"uses: (.+)", "".join(path.read_text() for path in _FILES))
    assert len(used) > 10
    pinned = [re.fullmatch(r"([\w-]+/[\w-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", one) for one in used]
    assert [one for one, match in zip(used, pinned, strict=True) if match is None] == []
    versions = {match.groups() for match in pinned if match}
    assert len(versions) == len({action for action, _, _ in versions}), "an action is used in two versions"


@pytest.mark.parametrize(("name", "job"), _JOBS)
def test_every_job_says_its_rights_and_its_time(name: str, job: str) -> None:
    assert _WORKFLOWS[name]["permissions"] == {}
    found = _job(name, job)
    assert found["permissions"]
    assert "write-all" not in str(found["permissions"])
    assert found["timeout-minutes"] <= 180


@pytest.mark.parametrize(("name", "job"), _JOBS)
def test_scripts_take_values_from_variables_only(name: str, job: str) -> None:
    for step in _job(name, job)["steps"]:
        assert "${{" not in step.get("run", "")


def test_what_runs_code_of_an_engine_has_no_secret_and_no_right() -> None:
    job = _job("engine.yml", "test")
    assert job["permissions"] == {"contents": "read"}
    assert "secrets." not in str(job)
    assert all(
        step["with"]["persist-credentials"] is False for step in job["steps"] if "checkout" in step.get("uses", "")
    )
    # A Dockerfile runs code of the engine as well, beside what the registry of images needs, and nothing else.
    assert {"operator_key", "gitops_token"}.isdisjoint(re.findall(r"secrets\.(\w+)", str(_job("engine.yml", "image"))))


def test_ci_runs_what_a_commit_must_pass() -> None:
    runs = [step.get("run", "") for job in _WORKFLOWS["ci.yml"]["jobs"].values() for step in job["steps"]]
    assert {"make check", "make manifests", "make demo", ".ci/run"} <= set(runs)
