"""An engine with `mode: job`: each job runs in a pod of its own, which is gone when the job has ended."""

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from tests.support.cluster import caller, gitops
from tests.support.cluster.images import engine_image
from tests.support.cluster.kube import eventually, kubectl, listed, run, state_of
from tests.support.cluster.operator import Operator

_NAMESPACE, _ENGINE = "tenant-jobber", "jobber--apart"
_MOST = 3
_OF_ENGINE = {"app.kubernetes.io/name": "engine"}
_TELLS = """\
import asyncio, os, pathlib, socket

from enginehouse.engine import Engine


class Apart(Engine):
    async def predict(self, data: dict) -> dict:
        mark = pathlib.Path("/tmp/jobs")
        before = int(mark.read_text()) if mark.exists() else 0
        mark.write_text(str(before + 1))
        await asyncio.sleep(data["seconds"])
        return {"pod": socket.gethostname(), "jobs_before": before}
"""
_CLIENT = """
import asyncio, json, sys
from enginehouse.client import AsyncClient

async def main(url, what, given):
    async with AsyncClient(url) as client:
        if what == "submit":
            options = given[1]
            jobs = [await client.submit("apart", {"seconds": seconds}, **options) for seconds in given[0]]
            print(json.dumps([job.id for job in jobs]))
        else:
            if what == "cancel":
                await asyncio.gather(*(client.cancel(job) for job in given))
            jobs = await asyncio.gather(*(client.job(job) for job in given))
            print(json.dumps([job.model_dump(mode="json") for job in jobs]))

asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def key(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    source, folder = (tmp_path_factory.mktemp(name) / "apart" for name in ("source", "jobber"))
    source.mkdir()
    (source / "engine.py").write_text(_TELLS)
    content = {
        "tenant": "jobber",
        "name": "apart",
        "image": engine_image(source),
        "mode": "job",
        "scale": {"min": 0, "max": _MOST},
        "execution_timeout_seconds": 60,
        "resources": {"cpu": "50m", "memory": "128Mi"},
    }
    folder.mkdir()
    (folder / "engine.yaml").write_text(json.dumps(content))
    with operator.tenants("jobber") as keys:
        gitops.add_engine_secrets(_ENGINE)
        gitops.deploy(folder, {"asleep_after_seconds": 30})
        yield keys["jobber"]


def asked(key: str, what: str, given: Any) -> Any:
    """Ask the API from inside the cluster."""
    command = ["-n", caller.NAMESPACE, "exec", "-i", "caller", "--", "env", f"ENGINEHOUSE_API_KEY={key}"]
    said = kubectl(*command, "python", "-", caller.GATEWAY, what, json.dumps(given), stdin=_CLIENT)
    return json.loads(said.splitlines()[-1])


def submitted(key: str, seconds: Iterable[float], **options: Any) -> list[str]:
    found: list[str] = asked(key, "submit", [list(seconds), options])
    return found


def ended(key: str, jobs: list[str], within: float = 180) -> list[dict[str, Any]]:
    def all_ended() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = asked(key, "get", jobs)
        return found if all(job["status"] not in ("queued", "running") for job in found) else None

    try:
        return eventually(all_ended, "the jobs have ended", within)
    except AssertionError as late:
        raise AssertionError(f"{late}\n{asked(key, 'get', jobs)}\n{state_of(_NAMESPACE)}") from None


def engine_pods() -> list[dict[str, Any]]:
    return listed("pods", _NAMESPACE, _OF_ENGINE)


def all_gone() -> bool:
    return not engine_pods()


def running_pod() -> dict[str, Any] | None:
    """Return the pod in which a job runs."""
    return next((pod for pod in engine_pods() if is_called(pod["metadata"]["name"])), None)


def is_called(pod: str) -> bool:
    counted = ["-n", _NAMESPACE, "exec", pod, "-c", "engine", "--", "python", "-c"]
    done = run(*counted, "import pathlib; print(pathlib.Path('/tmp/jobs').exists())")
    return "True" in done.stdout


def test_each_job_runs_in_a_pod_of_its_own_and_those_beyond_the_most_wait(key: str) -> None:
    begun = time.monotonic()
    jobs = submitted(key, [3] * 6)
    most = 0

    def all_ended() -> list[dict[str, Any]] | None:
        nonlocal most
        most = max(most, sum(pod["status"]["phase"] in ("Pending", "Running") for pod in engine_pods()))
        found: list[dict[str, Any]] = asked(key, "get", jobs)
        return found if all(job["status"] not in ("queued", "running") for job in found) else None

    found = eventually(all_ended, "the jobs have ended", 240)
    assert [(job["status"], job["attempts"]) for job in found] == [("succeeded", 1)] * 6
    assert len({job["output"]["pod"] for job in found}) == 6
    assert {job["output"]["jobs_before"] for job in found} == {0}
    assert most <= _MOST
    print(f"six jobs of 3 s, {_MOST} pods at once: {time.monotonic() - begun:.0f} s")
    eventually(all_gone, "the pods are gone", 120)


def test_a_pod_that_is_killed_costs_an_attempt_and_the_job_runs_in_another(key: str) -> None:
    (job,) = submitted(key, [8])
    pod = eventually(running_pod, "the job runs", 90)
    kubectl("-n", _NAMESPACE, "delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    (found,) = ended(key, [job])
    assert (found["status"], found["attempts"]) == ("succeeded", 2)
    assert found["output"]["pod"] != pod["metadata"]["name"]


def test_a_pod_that_is_to_go_ends_its_job(key: str) -> None:
    (job,) = submitted(key, [8])
    pod = eventually(running_pod, "the job runs", 90)
    kubectl("-n", _NAMESPACE, "delete", "pod", pod["metadata"]["name"], "--wait=false")
    (found,) = ended(key, [job])
    assert (found["status"], found["attempts"], found["output"]["pod"]) == ("succeeded", 1, pod["metadata"]["name"])


def test_a_job_that_is_canceled_takes_its_pod_along(key: str) -> None:
    (job,) = submitted(key, [55])
    eventually(running_pod, "the job runs", 90)
    (found,) = asked(key, "cancel", [job])
    begun = time.monotonic()
    eventually(all_gone, "the pod is gone", 50)
    print(f"the pod of a canceled job is gone after {time.monotonic() - begun:.0f} s")
    (found,) = ended(key, [job])
    assert found["status"] == "canceled"


def test_a_job_that_runs_out_of_time_ends_and_its_pod_with_it(key: str) -> None:
    (job,) = submitted(key, [50], execution_timeout_seconds=2)
    (found,) = ended(key, [job])
    assert (found["status"], found["error"]["code"]) == ("timed_out", "PREDICT_TIMEOUT")
    eventually(all_gone, "the pod is gone", 50)


def test_keda_says_that_all_is_well(key: str) -> None:
    status = json.loads(kubectl("-n", _NAMESPACE, "get", "scaledjob", f"{_ENGINE}--a", "-o", "json"))["status"]
    assert {one["type"]: one["status"] for one in status["conditions"]}["Ready"] == "True"
