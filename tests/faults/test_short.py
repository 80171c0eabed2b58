"""Every process of a stack is killed under load: no job is lost or ends twice, and every process is back in time."""

import functools
import random
from pathlib import Path

import pytest
from tests.faults.campaign import Campaign, Fault, shuffled
from tests.faults.conftest import Witnessed
from tests.faults.evidence import make_witness
from tests.faults.load import Load
from tests.faults.receiver import receiving
from tests.faults.rolling import roll, roll_engine
from tests.faults.versions import NewVersions
from tests.support.stack import until

from enginehouse.registry.tenants import rotate_webhook_secret

_SEED = 9
_APP = "tests--witness--a"
_PARTS = [f"{_APP}.engine-0", f"{_APP}.runner", f"{_APP}.daprd", "gateway", "gateway.daprd", "redis"]


def _killing(witnessed: Witnessed, part: str) -> Fault:
    return Fault(f"kill {part.removeprefix(_APP + '.')}", lambda: witnessed.stack.kill(part))


def _worker_of(witnessed: Witnessed) -> str:
    environment = Path(f"/proc/{witnessed.stack.pid(f'{_APP}.runner')}/environ").read_text().split("\0")
    return next(it for it in environment if it.startswith("ENGINEHOUSE_RUNNER_WORKER="))


@pytest.mark.timeout(240)
def test_nothing_is_lost_and_nothing_ends_twice(witnessed: Witnessed) -> None:
    with receiving() as receiver:
        receiver.secret = rotate_webhook_secret(witnessed.stack.home.webhook_secrets, "tests")
        load = Load(witnessed.api(), ["tests--witness"], per_second=5, webhook=receiver.url, seed=_SEED, name="kills")
        campaign = Campaign(load, witnessed.evidence, [witnessed.api()], receiver)
        worker = _worker_of(witnessed)
        load.start()
        until(lambda: len(load.present()) >= 20, "the load is on")
        try:
            for fault in shuffled([_killing(witnessed, part) for part in _PARTS], 6, _SEED):
                campaign.strike(fault)
                campaign.read_some(random.Random(_SEED))
            until(lambda: len(load.present()) >= 100, "enough jobs are accepted", 60)
        finally:
            campaign.finish()
        found = campaign.judge()
        print(f"seed {_SEED}\n{campaign.table()}")
        assert not found, "\n".join(found)
        assert _worker_of(witnessed) == worker, (
            "a runner of another name waits until the heartbeat of the first runs out"
        )


@pytest.mark.timeout(240)
def test_a_promotion_that_is_killed_in_the_middle_is_completed_by_the_next(
    witnessed: Witnessed, tmp_path: Path
) -> None:
    source = make_witness(tmp_path, "changing", witnessed.evidence)
    witnessed.stack.deploy(source)
    changing = NewVersions(witnessed.stack, source)
    load = Load(witnessed.api(), [changing.engine], per_second=5, seed=_SEED, name="versions")
    campaign = Campaign(load, witnessed.evidence, [witnessed.api()])
    load.start()
    until(lambda: len(load.present()) >= 20, "the load is on")
    try:
        campaign.strike(next(fault for fault in changing.faults() if fault.name.endswith("kill promote")))
    finally:
        campaign.finish()
        witnessed.stack.remove(changing.engine)
    found = [*campaign.judge(), *changing.judge(load)]
    print(campaign.table())
    assert not found, "\n".join(found)
    assert {sent.seen[0]["version"] for sent in load.present()} == {"v1", "v2"}
    assert {len(witnessed.evidence.runs(sent.key)) for sent in load.present()} == {1}


def test_a_rolling_restart_loses_and_repeats_nothing(witnessed: Witnessed) -> None:
    load = Load(witnessed.api(), ["tests--witness"], per_second=5, seed=_SEED, name="rolling")
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
