"""Jobs while they wait and run, through the whole stack: followed, batched, canceled, held back by a quarantine."""

import http.client
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import yaml
from tests.support.stack import StackHandle, until

_ENGINES = Path(__file__).resolve().parents[1] / "engines"


@pytest.fixture(scope="module")
def stack(shared_stack: StackHandle, tmp_path_factory: pytest.TempPathFactory) -> StackHandle:
    # One slot: the second job waits for the first.
    single = tmp_path_factory.mktemp("engines") / "single"
    shutil.copytree(_ENGINES / "sleeps", single)
    spec = yaml.safe_load((single / "engine.yaml").read_text())
    (single / "engine.yaml").write_text(yaml.safe_dump({**spec, "name": "single", "concurrency": 1}))
    shared_stack.deploy_all([_ENGINES / "streams", _ENGINES / "batches", single])
    return shared_stack


def submit(stack: StackHandle, engine: str, value: Any) -> str:
    job: str = stack.submit(engine, value, tenant="tests", wait=0)["id"]
    return job


def job(stack: StackHandle, job_id: str, wait: int = 0) -> dict[str, Any]:
    body: dict[str, Any] = stack.call("GET", f"/v1/jobs/{job_id}?wait={wait}", tenant="tests").body
    return body


def follow(stack: StackHandle, job_id: str, after: int | None = None, stop_after: int | None = None) -> list[Any]:
    """(id, event, data) of each event of a job until its end, or until `stop_after` of them were read."""
    parts = urlsplit(stack.base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    headers = {"Authorization": f"Bearer {stack.keys['tests']}"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    events: list[Any] = []
    fields: dict[str, str] = {}
    try:
        connection.request("GET", f"/v1/jobs/{job_id}/events", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200
        while stop_after is None or len(events) < stop_after:
            line = answer.readline().decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
                if events[-1][1] == "completed":
                    break
    finally:
        connection.close()
    return events


# Followed


def test_what_an_engine_tells_is_followed_to_the_end(stack: StackHandle) -> None:
    events = follow(stack, submit(stack, "tests--streams", {"steps": 4, "seconds": 0.4}))
    steps = [({"fraction": step / 4, "message": f"step {step}"}, step) for step in range(1, 5)]
    expected = [
        ("log", "begun"),
        *(event for progress, part in steps for event in (("progress", progress), ("output", part))),
        ("metric", {"name": "steps", "value": 4}),
    ]
    assert [kind for _, kind, _ in events][:: len(events) - 1] == ["start", "completed"]
    assert [(kind, value) for _, kind, value in events[1:-1]] == expected
    assert (events[-1][2]["status"], events[-1][2]["output"]) == ("succeeded", {"steps": 4})
    numbers = [number for number, _, _ in events]
    assert numbers == sorted(set(numbers))


def test_a_follower_who_lost_the_connection_goes_on_where_it_was(stack: StackHandle) -> None:
    job_id = submit(stack, "tests--streams", {"steps": 5, "seconds": 0.3})
    before = follow(stack, job_id, stop_after=4)
    rest = follow(stack, job_id, after=before[-1][0])
    assert [kind for _, kind, _ in before] == ["start", "log", "progress", "output"]
    assert [value for _, kind, value in [*before, *rest] if kind == "output"] == [1, 2, 3, 4, 5]
    assert rest[-1][1] == "completed"
    assert [event[:2] for event in follow(stack, job_id)] == [event[:2] for event in [*before, *rest]]
    assert follow(stack, job_id, after=rest[-2][0]) == rest[-1:]


# Batched


def test_jobs_at_once_make_far_fewer_calls_and_get_their_own_answers(stack: StackHandle) -> None:
    count = 200
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda n: submit(stack, "tests--batches", {"value": n}), range(count)))
        outputs = [ended["output"] for ended in pool.map(lambda job_id: job(stack, job_id, wait=30), ids)]
    assert [output["value"] for output in outputs] == list(range(count))
    calls = sum(1 / output["together"] for output in outputs)
    assert calls < count / 2
    assert max(output["together"] for output in outputs) <= 16


def test_one_alone_is_answered_alone(stack: StackHandle) -> None:
    assert stack.submit("tests--batches", {"value": 7}, tenant="tests")["output"] == {"value": 7, "together": 1}


# Canceled


def in_hand(stack: StackHandle) -> int:
    """How many calls the engine itself says it works on."""
    port = stack.processes()["tests--single--a.engine-0"]["port"]
    with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        count: int = json.load(answer)["in_hand"]
    return count


def cancel(stack: StackHandle, job_id: str) -> int:
    return stack.call("POST", f"/v1/jobs/{job_id}/cancel", tenant="tests").status


def test_canceled_while_it_runs_the_engine_is_told_and_the_next_one_runs(stack: StackHandle) -> None:
    running = submit(stack, "tests--single", {"seconds": 300})
    until(lambda: job(stack, running)["status"] == "running", "the first job runs")
    queued, following = (submit(stack, "tests--single", {"seconds": seconds}) for seconds in (300, 0))
    assert in_hand(stack) == 1
    assert cancel(stack, queued) == 202
    assert job(stack, queued)["status"] == "canceled"
    assert cancel(stack, running) == 202
    assert job(stack, running)["status"] == "canceled"
    # The queued one would sleep for 300 s in the only slot: that the last one ends shows that it never ran.
    ended = job(stack, following, wait=30)
    assert ended["status"] == "succeeded"
    assert in_hand(stack) == 0
    assert [job(stack, each)["output"] for each in (running, queued)] == [None, None]
    assert cancel(stack, running) == 409


# Held back


def operate(stack: StackHandle, what: str) -> int:
    return stack.call("POST", f"/v1/engines/tests--single/{what}", {"reason": "a test"}).status


def test_a_quarantined_engine_is_cut_off_and_begins_nothing_until_it_is_resumed(stack: StackHandle) -> None:
    running = submit(stack, "tests--single", {"seconds": 300})
    until(lambda: job(stack, running)["status"] == "running", "the first job runs")
    waiting = submit(stack, "tests--single", {"seconds": 0})
    assert operate(stack, "quarantine") in (200, 202)
    until(lambda: not any("tests--single" in name for name in stack.processes()), "it is killed")
    held = job(stack, waiting, wait=2)
    assert (held["status"], held["attempts"]) == ("queued", 0)
    assert operate(stack, "resume") in (200, 202)
    ended = job(stack, waiting, wait=60)
    assert (ended["status"], ended["attempts"]) == ("succeeded", 1)
    assert cancel(stack, running) == 202
