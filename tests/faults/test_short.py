"""Every process of a stack is killed under load: no job is lost or ends twice, and every process is back in time."""

import functools
import random
import signal
import time
from pathlib import Path

import pytest
from tests.faults.campaign import Campaign, Fault, shuffled
from tests.faults.conftest import Witnessed
from tests.faults.evidence import Evidence, make_witness
from tests.faults.load import Load
from tests.faults.receiver import receiving
from tests.faults.rolling import roll, roll_engine
from tests.support.stack import running_stack, until

from enginehouse.registry.tenants import rotate_webhook_secret

_SEED = 9
_APP = "tests--witness--a"
_PARTS = [f"{_APP}.engine-0", f"{_APP}.runner", f"{_APP}.daprd", "gateway", "gateway.daprd", "redis"]


def _killing(witnessed: Witnessed, part: str) -> Fault:
    return Fault(f"kill {part.removeprefix(_APP + '.')}", lambda: witnessed.stack.kill(part))


@pytest.mark.timeout(240)
def test_nothing_is_lost_and_nothing_ends_twice(witnessed: Witnessed) -> None:
    with receiving() as receiver:
        receiver.secret = rotate_webhook_secret(witnessed.stack.home.webhook_secrets, "tests")
        load = Load(witnessed.api(), ["tests--witness"], per_second=10, webhook=receiver.url, seed=_SEED, name="kills")
        campaign = Campaign(load, witnessed.evidence, [witnessed.api()], receiver)
        load.start()
        until(lambda: len(load.present()) >= 30, "the load is on")
        try:
            for fault in shuffled([_killing(witnessed, part) for part in _PARTS], 8, _SEED):
                campaign.strike(fault)
                campaign.read_some(random.Random(_SEED))
            until(lambda: len(load.present()) >= 300, "enough jobs are accepted", 60)
        finally:
            campaign.finish()
        found = campaign.judge()
        print(f"seed {_SEED}\n{campaign.table()}")
        assert not found, "\n".join(found)


def test_a_rolling_restart_loses_and_repeats_nothing(witnessed: Witnessed) -> None:
    load = Load(witnessed.api(), ["tests--witness"], per_second=10, seed=_SEED, name="rolling")
    campaign = Campaign(load, witnessed.evidence, [witnessed.api()])
    load.start()
    until(lambda: len(load.present()) >= 20, "the load is on")
    try:
        for app, beside in ((f"{_APP}.runner", f"{_APP}.daprd"), ("gateway", "gateway.daprd")):
            restart = functools.partial(roll, witnessed.stack, app, beside)
            campaign.strike(Fault(f"restart {app}", restart, counts_from_start=False))
        restart = functools.partial(roll_engine, witnessed.stack, f"{_APP}.engine-0")
        campaign.strike(Fault("restart the engine", restart, counts_from_start=False))
    finally:
        campaign.finish()
    found = campaign.judge()
    print(campaign.table())
    assert not found, "\n".join(found)
    assert {len(witnessed.evidence.runs(sent.key)) for sent in load.present()} == {1}
    assert {sent.seen[0]["status"] for sent in load.present()} == {"succeeded"}


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
