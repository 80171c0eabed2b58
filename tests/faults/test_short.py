"""Every process of a stack is killed under load: nothing is lost, nothing ends twice, everything is back in time."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.api import Api
from tests.faults.campaign import Campaign, Fault, shuffled
from tests.faults.evidence import Evidence, make_witness
from tests.faults.load import Load
from tests.faults.receiver import receiving
from tests.support.stack import StackHandle, running_stack

from enginehouse.registry.tenants import rotate_webhook_secret

_SEED = 3
_ENGINE = "tests--witness"
_PARTS = [f"{_ENGINE}--a.engine-0", f"{_ENGINE}--a.runner", f"{_ENGINE}--a.daprd", "gateway", "gateway.daprd", "redis"]


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    folder = tmp_path / "runs"
    folder.mkdir()
    return Evidence(folder)


@pytest.fixture
def stack(tmp_path: Path, evidence: Evidence) -> Iterator[StackHandle]:
    env = {"ENGINEHOUSE_GATEWAY_WEBHOOK_ALLOW_INSIDE": "true"}
    with running_stack(tmp_path / "home", [make_witness(tmp_path, "witness", evidence)], env=env) as handle:
        yield handle


def _killing(stack: StackHandle, part: str) -> Fault:
    return Fault(f"kill {part.removeprefix(_ENGINE + '--a.')}", lambda: stack.kill(part) and None)


@pytest.mark.timeout(240)
def test_nothing_is_lost_and_nothing_ends_twice(stack: StackHandle, evidence: Evidence) -> None:
    api = Api([stack.base_url], stack.key_for("tests") or stack.keys["tests"])
    with receiving() as receiver:
        receiver.secret = rotate_webhook_secret(stack.home.webhook_secrets, "tests")
        load = Load(api, [_ENGINE], per_second=10, webhook=receiver.url, seed=_SEED)
        campaign = Campaign(load, evidence, [Api([stack.base_url], stack.keys["tests"])], receiver)
        load.start()
        try:
            for fault in shuffled([_killing(stack, part) for part in _PARTS], 8, _SEED):
                campaign.strike(fault)
                campaign.read_some(random.Random(_SEED))
        finally:
            campaign.finish()
        found = campaign.judge()
        print(f"seed {_SEED}\n{campaign.table()}")
        assert not found, "\n".join(found)
        assert len(load.accepted) >= 300
