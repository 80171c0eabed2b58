"""A new version takes over under load without a failed, lost or late job; one that is not fit to leaves the old one serving."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.faults.evidence import Evidence, make_witness
from tests.support.commands import Ran, run_command
from tests.support.stack import StackHandle, running_stack
from tests.support.waiting import until

from enginehouse.registry.deploy import busy_slot, deploy_engine
from enginehouse.registry.versions import read_versions

_TENANT, _ENGINE = "tests", "tests--steady"
_SECONDS = (0.3, 1.0, 2.5)
_EACH_SECONDS = 0.2
_OTHER_LIMITS = {
    "description": "Another one.",
    "labels": {"stage": "next"},
    "concurrency": 12,
    "execution_timeout_seconds": 50.0,
    "max_time_in_queue_seconds": 3_600,
    "max_queued_jobs": 5_000,
    "retry": {"max_attempts": 5, "initial_delay_ms": 200, "max_delay_ms": 2_000},
    "batch": {"max_size": 2, "max_delay_ms": 1},
}
"""Settings of engine.yaml that a new version changes."""
_LATE_SECONDS = 8.0
"""Long before anything but the switch itself would find a job that got lost: 1.2 s on a quiet machine, aim 2 s."""


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return Evidence(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, evidence: Evidence) -> Path:
    return make_witness(tmp_path_factory.mktemp("source"), "steady", evidence)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[StackHandle]:
    _edit(source, version="v1")
    with running_stack(tmp_path_factory.mktemp("home"), [source]) as handle:
        handle.key_for(_TENANT)
        yield handle


def enginehouse(*arguments: str) -> Ran:
    """Run a command to its end."""
    return run_command(None, *arguments)


def _limits(stack: StackHandle) -> dict[str, Any]:
    """Return what the gateway goes by."""
    card: dict[str, Any] = stack.call("GET", f"/v1/engines/{_ENGINE}", tenant=_TENANT).body["card"]
    return {name: card[name] for name in _OTHER_LIMITS}


def _recorded(stack: StackHandle, action: str) -> list[dict[str, Any]]:
    """Return what the audit log has of an act at the engine."""
    path = f"/v1/audit?engine={_ENGINE}&action={action.replace(' ', '%20')}"
    entries: list[dict[str, Any]] = stack.call("GET", path, tenant=_TENANT).body["entries"]
    return entries


def _edit(source: Path, **fields: Any) -> None:
    path = source / "engine.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **fields}))


@dataclass
class Load:
    """Jobs of some seconds, one after the other, until it is told to stop."""

    stack: StackHandle
    jobs: list[dict[str, Any]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._starting = threading.Thread(target=self._start)
        self._starting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._starting.join()
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        number = 0
        while not self._over.wait(_EACH_SECONDS):
            thread = threading.Thread(target=self._submit, args=(f"k{number}", _SECONDS[number % len(_SECONDS)]))
            thread.start()
            self._threads.append(thread)
            number += 1

    def _submit(self, key: str, seconds: float) -> None:
        began = time.monotonic()
        answer = self.stack.call(
            "POST",
            f"/v1/engines/{_ENGINE}/jobs",
            {"input": {"key": key, "seconds": seconds}},
            tenant=_TENANT,
            headers={"Prefer": "wait=60"},
        )
        self.jobs.append({**answer.body, "key": key, "late": time.monotonic() - began - seconds})

    def until_answered_by(self, version: str) -> None:
        """Wait until several jobs were answered by this version."""
        until(lambda: sum(job.get("version") == version for job in self.jobs) >= 5, f"{version} answers", 60)


def _ended(stack: StackHandle, job_id: str) -> dict[str, Any] | None:
    """Return a job that has ended; None if it has not, or the gateway does not answer."""
    try:
        job: dict[str, Any] = stack.call("GET", f"/v1/jobs/{job_id}?wait=10", tenant=_TENANT).body
    except OSError:
        return None
    return job if job.get("finished_at") else None


def test_versions_change_under_load_and_no_job_is_lost_late_or_run_twice(
    stack: StackHandle, source: Path, evidence: Evidence
) -> None:
    core = {name: stack.pid(name) for name in ("gateway", "gateway.daprd", "redis")}
    home = ("--home", str(stack.home.path))
    with Load(stack) as load:
        load.until_answered_by("v1")
        before = _limits(stack)
        _edit(source, version="v2", **_OTHER_LIMITS)
        deployed = enginehouse("engines", "deploy", str(source), *home)
        assert deployed.returncode == 0, deployed.stderr
        load.until_answered_by("v2")
        until(lambda: _limits(stack) == _OTHER_LIMITS != before, "the new settings hold")
        until(lambda: f"{_ENGINE}--a.runner" not in stack.processes(), "v1 has ended", 60)
        rolled_back = enginehouse("engines", "rollback", _ENGINE, *home)
        assert rolled_back.returncode == 0, rolled_back.stderr
        answered = sum(job.get("version") == "v1" for job in load.jobs)
        until(lambda: sum(job.get("version") == "v1" for job in load.jobs) >= answered + 5, "v1 answers again", 60)
        until(lambda: _limits(stack) == before, "the former settings hold again")
    assert Counter(job["status"] for job in load.jobs) == {"succeeded": len(load.jobs)}
    assert {job["attempts"] for job in load.jobs} == {1}
    assert [job["key"] for job in load.jobs if len(evidence.runs(job["key"])) != 1] == []
    latest = max(load.jobs, key=lambda job: job["late"])
    assert latest["late"] < _LATE_SECONDS, latest
    assert {name: stack.pid(name) for name in core} == core, "nothing of the core is restarted"
    until(
        lambda: [act["version"] for act in _recorded(stack, "version promoted")] == ["v1", "v2"],
        "both promotions are recorded, in this order",
    )
    print(f"{len(load.jobs)} jobs, the latest {latest['late']:.2f} s late")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("raise SystemExit('no model')\n", "no model"),
        ("", "does not answer its own example.json"),
    ],
    ids=["it ends", "its own example"],
)
def test_a_version_that_is_not_fit_to_leaves_the_one_before_serving(
    stack: StackHandle, source: Path, spoil: str, says: str
) -> None:
    active = read_versions(stack.home.engines / _ENGINE).active
    runner = stack.pid(f"{_ENGINE}--{active}.runner")
    code = (source / "engine.py").read_text()
    (source / "example.json").write_text('{"nonsense": 1}' if not spoil else '{"key": "example"}')
    (source / "engine.py").write_text(spoil + code)
    _edit(source, version=f"bad-{len(spoil)}")
    try:
        deployed = enginehouse("engines", "deploy", str(source), "--home", str(stack.home.path))
    finally:
        (source / "engine.py").write_text(code)
        (source / "example.json").unlink()
    assert deployed.returncode == 1
    assert says in deployed.stdout + deployed.stderr
    assert f"The version before goes on serving {_ENGINE}" in deployed.stdout + deployed.stderr
    assert stack.pid(f"{_ENGINE}--{active}.runner") == runner
    job = stack.submit(_ENGINE, {"key": "after", "seconds": 0}, tenant=_TENANT)
    assert (job["status"], job["version"]) == ("succeeded", "v1")
    until(lambda: _ENGINE not in stack.state()["trials"], "nothing is on trial", 60)
    if not spoil:
        # The audit log is written a moment after what it tells of.
        until(lambda: _recorded(stack, "trial failed"), "the failed trial is recorded")
    failed = _recorded(stack, "trial failed")
    assert [(act["writer"], act["outcome"]) for act in failed] == [("supervisor", "failed")] * (not spoil)


@pytest.mark.timeout(300)  # It starts four versions.
def test_a_version_stays_on_trial_until_it_is_promoted_and_goes_on_with_its_jobs(
    stack: StackHandle, source: Path, evidence: Evidence
) -> None:
    home = ("--home", str(stack.home.path))
    _edit(source, version="v3")
    deployed = enginehouse("engines", "deploy", str(source), "--no-promote", *home)
    assert deployed.returncode == 0, deployed.stderr
    assert stack.submit(_ENGINE, {"key": "trial", "seconds": 0}, tenant=_TENANT)["version"] == "v1"
    tried = stack.submit(f"{_ENGINE}@trial", {"key": "tried", "seconds": 0}, tenant=_TENANT)
    assert (tried["status"], tried["engine"], tried["version"]) == ("succeeded", f"{_ENGINE}@trial", "v3")
    shown = enginehouse("engines", "show", f"{_ENGINE}@trial", "--json", *home)
    assert json.loads(shown.stdout)["version"] == "v3", shown.stderr
    replayed = enginehouse("engines", "replay", _ENGINE, "--last", "1", "--json", *home)
    assert replayed.returncode == 1, replayed.stderr
    (example,) = json.loads(replayed.stdout)["examples"]
    assert [each["path"] for each in example["differences"]] == ["run"], "each run has a number of its own"
    sent = [
        stack.submit(f"{_ENGINE}@trial", {"key": f"sent-{n}", "seconds": 5}, tenant=_TENANT, wait=0) for n in range(4)
    ]
    promoted = enginehouse("engines", "promote", _ENGINE, *home)
    assert promoted.returncode == 0, promoted.stderr
    for job in sent:
        ended = until(partial(_ended, stack, job["id"]), "it ends", 90)
        assert (ended["status"], ended["version"], ended["attempts"]) == ("succeeded", "v3", 1), ended
        assert len(evidence.runs(ended["input"]["key"])) == 1
    assert stack.submit(_ENGINE, {"key": "promoted", "seconds": 0}, tenant=_TENANT)["version"] == "v3"
    _edit(source, version="v4")
    assert enginehouse("engines", "deploy", str(source), "--no-promote", *home).returncode == 0
    same = enginehouse("engines", "deploy", str(source), *home)
    assert same.returncode == 0, same.stderr
    assert stack.submit(_ENGINE, {"key": "same", "seconds": 0}, tenant=_TENANT)["version"] == "v4"
    again = enginehouse("engines", "promote", _ENGINE, *home)
    assert again.returncode != 0
    assert "No version of tests--steady is on trial" in again.stderr


def test_a_takeover_is_completed_though_the_gateway_dies_in_the_middle(
    stack: StackHandle, source: Path, evidence: Evidence
) -> None:
    until(lambda: busy_slot(stack.home.engines / _ENGINE) is None, "the version before has ended", 60)
    active = read_versions(stack.home.engines / _ENGINE).active
    _edit(source, version="after-a-kill")
    jobs = [stack.submit(_ENGINE, {"key": f"taken-over-{n}", "seconds": 3}, tenant=_TENANT, wait=0) for n in range(4)]
    deploy_engine(stack.home.engines, source)
    until(lambda: read_versions(stack.home.engines / _ENGINE).active != active, "it takes over", 60)
    stack.until_restarted("gateway", stack.kill("gateway"))
    for job in jobs:
        ended = until(partial(_ended, stack, job["id"]), "it ends", 90)
        assert ended["status"] == "succeeded", ended
        assert len(evidence.runs(ended["input"]["key"])) == 1
    stack.until_engine(_ENGINE)
