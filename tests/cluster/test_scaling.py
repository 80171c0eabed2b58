"""An engine that may sleep: from zero to as many replicas as its jobs need, and back, and no job is lost."""

import json
import time

import pytest
from tests.support.cluster import gitops
from tests.support.cluster.caller import start_load
from tests.support.cluster.core import Core
from tests.support.cluster.kube import eventually, kubectl, replicas

_NAMESPACE, _ENGINE = "tenant-burst", "burst--sleeps"
_APP = f"{_ENGINE}--a"
_RUNNER = f"{_APP}-runner"
_COLD_SECONDS = 10
_ASLEEP_AFTER = {"asleep_after_seconds": 10}


@pytest.fixture(scope="module")
def key(core: Core, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = gitops.add_tenant("burst")
    gitops.add_engine_secrets(_ENGINE)
    settings = {"concurrency": 2, "execution_timeout_seconds": 10, "scale": {"min": 0, "max": 3}}
    folder = gitops.engine_folder(tmp_path_factory.mktemp("burst"), "sleeps", _ENGINE, **settings)
    gitops.deploy(folder, _ASLEEP_AFTER)
    return made


def asleep() -> bool:
    return replicas(_APP, _NAMESPACE) == 0 == replicas(_RUNNER, _NAMESPACE)


def test_from_zero_to_three_under_a_burst_and_back_with_no_job_lost(key: str) -> None:
    eventually(asleep, "the engine has gone to sleep", 120)
    load = start_load(key, "sleeps", 120, per_second=40, nap_seconds=1.0)
    eventually(lambda: replicas(_APP, _NAMESPACE) == 3, "three replicas", 90)
    assert load.end().ends == {"succeeded": 120}
    eventually(asleep, "the engine sleeps again", 180)
    status = json.loads(kubectl("-n", _NAMESPACE, "get", "scaledobject", _APP, "-o", "json"))["status"]
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert conditions["Ready"] == "True"
    assert conditions["Active"] == "False"


def test_the_first_answer_of_a_light_engine_that_sleeps_comes_soon(key: str) -> None:
    took = []
    for _ in range(3):
        eventually(asleep, "the engine sleeps", 180)
        time.sleep(3)  # The pods of before are gone as well, or the next job would find one of them.
        first = start_load(key, "sleeps", 1, nap_seconds=0.01).end().first_seconds
        assert first is not None
        took.append(first)
    print(f"first answers after {', '.join(f'{seconds:.1f} s' for seconds in took)}")
    assert sorted(took)[1] < _COLD_SECONDS, took
