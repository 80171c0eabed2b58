"""Jobs over HTTP through real sidecars: a whole life, the result of every way of failing, and harmless garbage."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from tests.support.dapr import RedisHandle, start_redis
from tests.support.stack import StackHandle, running_stack, until

_ENGINES = Path(__file__).resolve().parents[1] / "engines"
_DEPLOYED = "echo flaky rejects raises_in_predict hangs exits_in_predict killed_in_predict answers_nonsense answers_too_much foreign"
TENANT = "tests"
ONCE = {"max_attempts": 1}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisHandle]:
    """A broker that the tests can write to, too."""
    handle = start_redis(tmp_path_factory.mktemp("redis"))
    yield handle
    handle.stop()


@pytest.fixture(scope="module")
def broker(redis: RedisHandle) -> Redis:
    return Redis("127.0.0.1", redis.address.port, password=redis.address.password)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: RedisHandle) -> Iterator[StackHandle]:
    url = f"redis://:{redis.address.password}@127.0.0.1:{redis.address.port}"
    engines = [_ENGINES / name for name in _DEPLOYED.split()]
    with running_stack(tmp_path_factory.mktemp("home"), engines, env={"REDIS_URL": url}) as handle:
        yield handle


def submit(stack: StackHandle, engine: str, value: Any, **options: Any) -> dict[str, Any]:
    """Submit a job and wait for its end."""
    job: dict[str, Any] = stack.submit(engine, value, tenant=TENANT, wait=30, **options)
    assert job["status"] not in ("queued", "running"), job
    return job


def dead_letters(stack: StackHandle) -> list[dict[str, Any]]:
    """Those of the tenant, the newest first."""
    found: list[dict[str, Any]] = stack.call("GET", "/v1/dead-letters", tenant=TENANT).body["dead_letters"]
    return found


def test_a_job_is_accepted_run_and_read_back(stack: StackHandle) -> None:
    answer = stack.call("POST", "/v1/engines/echo/jobs", {"input": {"text": "é\u0000😀"}}, tenant=TENANT)
    assert (answer.status, answer.body["status"]) == (202, "queued")
    job = stack.call("GET", f"{answer.headers['location']}?wait=30", tenant=TENANT).body
    assert (job["status"], job["output"], job["attempts"]) == ("succeeded", {"text": "é\u0000😀"}, 1)
    assert job["metrics"]["queue_time"] >= 0
    assert job["metrics"]["predict_time"] > 0
    page = stack.call("GET", "/v1/jobs?engine=echo&limit=1", tenant=TENANT).body
    assert [listed["id"] for listed in page["jobs"]] == [job["id"]]
    again = stack.call("POST", f"/v1/jobs/{job['id']}/retry", tenant=TENANT)
    assert again.status == 202
    repeated = stack.call("GET", f"/v1/jobs/{again.body['id']}?wait=30", tenant=TENANT).body
    assert (repeated["output"], repeated["retry_of"]) == (job["output"], job["id"])
    assert stack.call("POST", f"/v1/jobs/{job['id']}/cancel", tenant=TENANT).body["code"] == "JOB_IS_FINAL"
    assert stack.call("GET", f"/v1/jobs/{job['id']}").status == 404


def test_an_engine_in_another_language_works_as_any_other(stack: StackHandle) -> None:
    assert submit(stack, "foreign", "text")["output"] == "txet"


def test_an_engine_that_fails_at_first_is_tried_again(stack: StackHandle) -> None:
    job = submit(stack, "flaky", {"key": "k", "failures": 2}, retry={"max_attempts": 3, "initial_delay_ms": 0})
    assert (job["status"], job["attempts"], job["output"]) == ("succeeded", 3, {"calls": 3})


@pytest.mark.parametrize(
    ("engine", "value", "options", "status", "code", "says"),
    [
        ("rejects", 1, {}, "failed", "INVALID_INPUT", "can never work"),
        ("raises-in-predict", 1, {"retry": ONCE}, "failed", "PREDICT_ERROR", "no prediction today"),
        ("hangs", 1, {"execution_timeout_seconds": 0.5}, "timed_out", "PREDICT_TIMEOUT", "0.5 s"),
        ("exits-in-predict", {"exit": True}, {"retry": ONCE}, "failed", "PREDICT_ERROR", "closed the connection"),
        ("killed-in-predict", {"kill": True}, {"retry": ONCE}, "failed", "PREDICT_ERROR", "closed the connection"),
        ("answers-too-much", {}, {}, "failed", "OUTPUT_TOO_LARGE", "50000013 bytes"),
    ],
)
def test_each_way_of_failing_is_the_jobs_error(
    stack: StackHandle, engine: str, value: Any, options: dict[str, Any], status: str, code: str, says: str
) -> None:
    job = submit(stack, engine, value, **options)
    assert (job["status"], job["error"]["code"], job["output"]) == (status, code, None)
    assert says in job["error"]["message"]
    letters = [letter["job_id"] for letter in dead_letters(stack) if letter["job_id"] == job["id"]]
    # What its input or its clock ended is nobody's to look into; what the engine could not do is.
    assert letters == ([] if code in ("INVALID_INPUT", "PREDICT_TIMEOUT") else [job["id"]])


@pytest.mark.parametrize(
    ("engine", "spared"), [("exits-in-predict", {"exit": False}), ("killed-in-predict", {"kill": False})]
)
def test_an_engine_whose_process_ended_comes_back(stack: StackHandle, engine: str, spared: Any) -> None:
    assert submit(stack, engine, spared)["status"] == "succeeded"


def test_an_engine_that_hangs_is_restarted(stack: StackHandle) -> None:
    replica = "tests--hangs--a.engine-0"
    hung = stack.pid(replica)
    assert submit(stack, "hangs", 1, execution_timeout_seconds=0.5)["status"] == "timed_out"
    stack.until_restarted(replica, hung)


NONSENSE = {
    "not json": ("MALFORMED_ANSWER", "not JSON"),
    "empty": ("MALFORMED_ANSWER", "empty"),
    "no result": ("MALFORMED_ANSWER", "without"),
    "not an object": ("MALFORMED_ANSWER", "without"),
    "nan": ("MALFORMED_ANSWER", "not JSON"),
    "not utf-8": ("MALFORMED_ANSWER", "not JSON"),
    "redirect": ("MALFORMED_ANSWER", "302"),
    "no content": ("MALFORMED_ANSWER", "empty"),
    "teapot in html": ("INVALID_INPUT", "418"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_answer_that_is_none_fails_the_job_with_what_was_wrong_with_it(stack: StackHandle, kind: str) -> None:
    job = submit(stack, "answers-nonsense", {"as": kind})
    code, says = NONSENSE[kind]
    # Asked again it would answer the same: no second attempt.
    assert (job["status"], job["error"]["code"], job["attempts"]) == ("failed", code, 1)
    assert says in job["error"]["message"]


def test_a_large_body_reaches_its_engine_and_a_large_wrong_one_is_refused(stack: StackHandle) -> None:
    value = {"text": "x" * 300_000, "n": 2**64 + 1}
    job = submit(stack, "echo", value)
    assert job["status"] == "succeeded", job
    assert stack.call("GET", job["output_url"].removeprefix(stack.base_url)).body == value
    answer = stack.call("POST", "/v1/engines/echo/jobs", {"input": value, "inptu": 1}, tenant=TENANT)
    assert (answer.status, answer.body["code"]) == (422, "INVALID_REQUEST")


def test_a_large_answer_is_kept_beside_the_job(stack: StackHandle) -> None:
    job = submit(stack, "answers-too-much", {"bytes": 100_000})
    assert (job["status"], job["output"]) == ("succeeded", None)
    answer = stack.call("GET", job["output_url"].removeprefix(stack.base_url), tenant=TENANT)
    assert answer.body == "x" * 100_000


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"\x00\xff garbage {",
    "no event": b'{"a": 1}',
    "a list": b"[1, 2]",
    "an event of another kind": json.dumps(
        {"specversion": "1.0", "id": "1", "source": "/x", "type": "other", "data": {}}
    ).encode(),
    "a job without an order": json.dumps(
        {
            "specversion": "1.0",
            "id": "01890a5d-ac96-7b2a-8c4e-0123456789ab",
            "source": "/gateway",
            "type": "dev.enginehouse.job.requested.v1",
            "tenantid": TENANT,
            "engineid": "tests--echo",
            "attempt": 1,
            "expirytime": "2100-01-01T00:00:00Z",
            "data": {"input": 1},
        }
    ).encode(),
    "10,000 levels": b'{"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "a megabyte": b'{"data":"' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_on_an_engines_topic_is_dead_lettered_with_a_reason_and_the_engine_goes_on(
    stack: StackHandle, broker: Redis, body: bytes
) -> None:
    before = {letter["id"] for letter in everybodys_dead_letters(stack)}
    broker.xadd("engine.tests--echo", {"data": body})
    assert submit(stack, "echo", "still there")["status"] == "succeeded"

    def kept() -> list[dict[str, Any]]:
        return [letter for letter in everybodys_dead_letters(stack) if letter["id"] not in before]

    (letter,) = until(kept, "the garbage is kept as a dead letter")
    assert letter["reason"] == "UNPARSABLE"
    assert letter["job_id"] is None
    assert submit(stack, "echo", "and still")["status"] == "succeeded"


def everybodys_dead_letters(stack: StackHandle) -> list[dict[str, Any]]:
    """The tenant's, and what nobody could say whose it was."""
    answer = stack.call("GET", "/v1/dead-letters?unparsable=true")
    assert answer.status == 200, answer
    return [*answer.body["dead_letters"], *dead_letters(stack)]


def test_at_the_end_everything_is_as_well_as_at_the_beginning(stack: StackHandle) -> None:
    for engine in ("echo", "foreign", "flaky"):
        known = stack.until_engine(f"{TENANT}--{engine}")
        assert known["health"] == "healthy"
        assert known["queue"]["jobs"]["running"] == known["queue"]["jobs"]["queued"] == 0
