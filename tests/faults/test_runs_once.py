"""A job runs once: over a restart of everything, past the broker's clock, and under a runner that was paused."""

import signal
import time
from pathlib import Path

from tests.faults.conftest import Witnessed
from tests.faults.evidence import Evidence, make_witness
from tests.support.stack import running_stack, until

_APP = "tests--witness--a"


def test_a_whole_deployment_that_is_stopped_and_started_again_loses_and_repeats_nothing(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "runs")
    evidence.folder.mkdir()
    witness = make_witness(tmp_path, "witness", evidence)
    with running_stack(tmp_path / "home", [witness]) as stack:
        tasks = [{"key": f"over-{number}", "seconds": number % 4} for number in range(60)]
        jobs = {str(task["key"]): stack.submit("tests--witness", task, tenant="tests", wait=0)["id"] for task in tasks}
        until(lambda: any(run.ended is None for run in evidence.runs("over-3")), "something runs")
    assert any(not evidence.runs(key) for key in jobs), "something waits"
    with running_stack(tmp_path / "home", [witness]) as again:
        for key, job_id in jobs.items():
            job = again.call("GET", f"/v1/jobs/{job_id}?wait=60", tenant="tests").body
            assert job["status"] == "succeeded", job
            assert len(evidence.runs(key)) == 1


def test_a_job_longer_than_the_brokers_clock_runs_once(witnessed: Witnessed) -> None:
    submitted = time.time()
    body = {"key": "long", "seconds": 12}
    job = witnessed.stack.submit("tests--impatient", body, tenant="tests", wait=30)
    assert job["status"] == "succeeded", job
    assert time.time() - submitted > 12
    assert len(witnessed.evidence.runs("long")) == 1
    assert job["attempts"] == 1
    # The broker did deliver it again and again meanwhile.
    assert "delivery_joined" in witnessed.stack.log("tests--impatient--a.runner")


def test_a_paused_runner_that_wakes_up_late_changes_nothing(witnessed: Witnessed) -> None:
    stack = witnessed.stack
    job = stack.submit("tests--witness", {"key": "paused", "seconds": 3}, tenant="tests", wait=0)
    until(lambda: witnessed.evidence.runs("paused"), "it runs")
    stack.signal(f"{_APP}.runner", signal.SIGSTOP)
    ended = until(lambda: witnessed.evidence.runs("paused")[0].ended, "the engine has ended it")
    stack.signal(f"{_APP}.runner", signal.SIGCONT)

    def final() -> bool:
        found = stack.call("GET", f"/v1/jobs/{job['id']}?wait=5", tenant="tests").body
        return bool(found["status"] == "succeeded")

    until(final, "its result is there")
    assert ended
    assert len(witnessed.evidence.runs("paused")) == 1
