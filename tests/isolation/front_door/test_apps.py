"""A hostile engine that has taken its runner over, and holds its tokens and its user of Redis, speaks for nobody else."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import redis
from tests.support.abuse import dapr_grpc
from tests.support.abuse.door import PRIVATE_ENGINE, SHARED_ENGINE, VICTIM, Door
from tests.support.break_ins import Noted, attempt
from tests.support.job_events import one_job_event
from tests.support.stack import until

from enginehouse.contracts.events import (
    JOB_COMPLETED,
    DeadLetter,
    JobOrder,
    ProgressData,
    completion_event,
    dead_letter_event,
    progress_event,
)
from enginehouse.contracts.job import JobRecord, RetryPolicy, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import jobs_component, new_job_id, results_component
from enginehouse.contracts.proofs import EngineKey
from enginehouse.local.home import LOCAL_TENANT
from enginehouse.local.tenant_systems import redis_of

_OWN = "hostile--pattern"
_OTHERS = ["gateway", f"{PRIVATE_ENGINE}--a", f"shared--{SHARED_ENGINE}--a"]
_TOKENS = "a token for each app"


@dataclass(frozen=True)
class Taken:
    """What a runner of the hostile tenant holds, and the ports of all others."""

    door: Door
    api_token: str
    app_token: str
    key: EngineKey

    def ports(self, app: str) -> dict[str, int]:
        """Return the ports of an app's sidecar (`http`, `grpc`, `internal-grpc`), and of the app itself (`app`)."""
        line = psutil.Process(self.door.stack.pid(f"{app}.daprd")).cmdline()
        value = dict(itertools.pairwise(line))
        found = {name: int(value[f"--dapr-{name}-port"]) for name in ("http", "grpc", "internal-grpc")}
        return {**found, "app": int(value["--app-port"])}

    def call(self, port: int, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """Call a port of this machine with its own sidecar's token, or with these headers instead."""
        sent = {"content-type": "application/json", **(headers or {"dapr-api-token": self.api_token})}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{port}/{path}", data, {k.replace("_", "-"): v for k, v in sent.items()})
        try:
            with urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")

    def publish(self, topic: str, body: bytes) -> int:
        """Publish by its own sidecar, as its runner does."""
        path = f"v1.0/publish/{jobs_component(_OWN)}/{topic}"
        kind = "application/cloudevents+json"
        port = self.ports(f"{_OWN}--a")["http"]
        return self.call(port, path, body, dapr_api_token=self.api_token, content_type=kind)[0]


@pytest.fixture(scope="module")
def taken(door: Door) -> Taken:
    own = psutil.Process(door.stack.pid(f"{_OWN}--a.runner")).environ()
    key = EngineKey(own["ENGINEHOUSE_RUNNER_PROOF_KEY"])
    made = Taken(door, own["DAPR_API_TOKEN"], own["APP_API_TOKEN"], key)
    assert made.call(made.ports(f"{_OWN}--a")["http"], "v1.0/metadata")[0] == 200, "its own sidecar obeys"
    return made


@attempt("shows its own token to the sidecars of the gateway and of other engines", layer=_TOKENS)
def test_its_token_opens_no_other_sidecar(taken: Taken, note: Noted) -> None:
    found: list[int | str] = []
    for app in _OTHERS:
        ports = taken.ports(app)
        store = results_component(PRIVATE_ENGINE)
        found += [taken.call(ports["http"], f"v1.0/{path}")[0] for path in ("metadata", f"state/{store}/x")]
        found += [dapr_grpc.call(ports["grpc"], taken.api_token, "GetState", {1: store, 2: "x"})[0]]
    note(", ".join(map(str, found)))
    assert found == [401, 401, "UNAUTHENTICATED"] * len(_OTHERS)


@attempt("calls the sidecars of others without a token, over HTTP, gRPC and between sidecars", layer=_TOKENS)
def test_no_sidecar_serves_without_a_token(taken: Taken, note: Noted) -> None:
    found: list[int | str] = []
    for app in [*_OTHERS, f"{_OWN}--a"]:
        ports = taken.ports(app)
        found += [taken.call(ports["http"], "v1.0/metadata", no_token="x")[0]]
        found += [dapr_grpc.call(ports["grpc"], None, "GetMetadata", {})[0]]
    note(", ".join(map(str, found)))
    assert found == [401, "UNAUTHENTICATED"] * 4


@attempt("hands another runner a forged delivery at its own port", layer="each app's own token")
def test_no_runner_takes_a_forged_delivery(taken: Taken, note: Noted) -> None:
    answers = [
        taken.call(taken.ports(app)["app"], path, {}, dapr_api_token=token, **caller)[0]
        for app in _OTHERS[1:]
        for path, caller in (("jobs", {}), ("call/x", {"dapr_caller_app_id": "gateway"}))
        for token in (taken.app_token, taken.api_token, "")
    ]
    note(", ".join(map(str, answers)))
    assert {*answers} == {403}


@attempt("hands the gateway a forged completion, dead letter or request at its port", layer="each app's own token")
def test_the_gateway_takes_no_forged_delivery(taken: Taken, note: Noted) -> None:
    port = taken.ports("gateway")["app"]
    answers = [
        taken.call(port, path, {}, dapr_api_token=token)[0]
        for path in ("completions", "dead-letters", "requests/victim")
        for token in (taken.app_token, taken.api_token, "")
    ]
    note(", ".join(map(str, answers)))
    assert {*answers} == {403}


@attempt(
    "by service invocation calls the gateway and other runners",
    layer="the gateway's sidecar denies all; a runner takes calls from the gateway only",
)
def test_nobody_is_called_by_service_invocation(taken: Taken, note: Noted) -> None:
    port, calls = taken.ports(f"{_OWN}--a")["http"], {}
    for app in _OTHERS:
        for path in ("completions", "dead-letters", "requests/victim", "jobs", "call/openapi.json", "healthz"):
            calls[app, path] = taken.call(port, f"v1.0/invoke/{app}/method/{path}", {})
    note(", ".join(sorted({f"{status} {said[:60]}" for status, said in calls.values()})))
    assert {status for status, _ in calls.values()} == {403}, calls


@attempt("speaks to the gateway's sidecar as if it were a sidecar", layer="the gateway's sidecar denies all callers")
def test_the_gateways_sidecar_passes_on_no_call_of_a_sidecar(taken: Taken, note: Noted) -> None:
    port = taken.ports("gateway")["internal-grpc"]
    answers = [
        dapr_grpc.call_as_sidecar(port, path, b"{}", caller)
        for path in ("completions", "dead-letters", "requests/victim")
        for caller in (None, "gateway", f"{PRIVATE_ENGINE}--a")
    ]
    note(", ".join(sorted({code for code, _ in answers})))
    assert {code for code, _ in answers} == {"PERMISSION_DENIED"}, answers


@attempt("hands another engine a forged job, as if it were a sidecar", layer="a proof of the gateway in each order")
def test_a_runner_takes_no_job_from_another_than_the_gateway(taken: Taken, running: str, note: Noted) -> None:
    """Its sidecar passes on what any process of this machine says, and adds the app's own token."""
    port, engine = taken.ports(f"shared--{SHARED_ENGINE}--a")["internal-grpc"], f"shared--{SHARED_ENGINE}"
    order = JobOrder(input={}, execution_timeout_seconds=20, retry=RetryPolicy(), record_ttl_seconds=60)
    forged = new_job_id()
    for key in (None, taken.key):
        for job in (forged, running):
            event = one_job_event(key, engine, VICTIM, job, order, expires=now() + timedelta(hours=1))
            for body in (event, event.replace(b'"data":', b'"data":[],"d":')):
                code, said = dapr_grpc.call_as_sidecar(port, "jobs", body)
                assert (code, b"SUCCESS" in said) == ("OK", True)
    until(lambda: _unparsable(taken).count(f'"id":"{forged}"') == 4, "operators see what came", 30)
    note("4 letters for operators, no record of it")
    home = taken.door.stack.home
    with redis.Redis(port=redis_of(home).port, password=home.secret("redis")) as client:
        assert not client.exists(f"{engine}||{forged}"), "it did not run"


def _unparsable(taken: Taken) -> str:
    """Return the events of the dead letters that are for operators."""
    call = taken.door.call
    page = call("GET", "/v1/dead-letters?unparsable=true&limit=100", tenant=LOCAL_TENANT).body["dead_letters"]
    return "\n".join(
        str(call("GET", f"/v1/dead-letters/{letter['id']}", tenant=LOCAL_TENANT).body.get("event")) for letter in page
    )


@attempt("calls an engine's extra routes in the gateway's name", layer="a proof of the gateway in each call")
def test_a_runner_answers_no_call_of_another_than_the_gateway(taken: Taken, note: Noted) -> None:
    port = taken.ports(f"{PRIVATE_ENGINE}--a")["internal-grpc"]
    answers = [
        dapr_grpc.call_as_sidecar(port, path, body, "gateway")
        for path, body in (("call/every/info", None), ("call/every/update", b"{}"), ("call/one/info", None))
    ]
    note(", ".join(code for code, _ in answers))
    assert all(b"nothing proves that a gateway" in said for _, said in answers), answers


@attempt("calls the registration API with its runner's tokens, and without", layer="an operator's key")
def test_the_registry_knows_none_of_its_tokens(taken: Taken, note: Noted) -> None:
    port = taken.door.stack.processes()["registry"]["port"]
    answers = [
        taken.call(port, path, body, authorization=f"Bearer {token}")[0]
        for token in (taken.api_token, taken.app_token, "")
        for path, body in (("v1/engines", None), ("v1/tenants", None), ("v1/engines/x/promote", {}))
    ]
    note(", ".join(map(str, answers)))
    assert {*answers} == {401}


@attempt("shows its runner's tokens to the gateway as an API key", layer="keys are looked up by their hashes")
def test_the_gateway_knows_none_of_its_tokens_as_a_key(taken: Taken, note: Noted) -> None:
    port = taken.door.address[1]
    answers = [
        taken.call(port, "v1/jobs", None, authorization=f"Bearer {token}", dapr_api_token=token)[0]
        for token in (taken.api_token, taken.app_token)
    ]
    note(", ".join(map(str, answers)))
    assert {*answers} == {401}


@attempt("reads and writes in Redis with the user of its sidecar, as it is deployed", layer="its user of Redis")
def test_its_user_of_redis_reaches_nothing_of_others(taken: Taken, note: Noted) -> None:
    address = replace(redis_of(taken.door.stack.home), user=f"engine-{_OWN}")
    password = taken.door.stack.home.secret(f"redis-{address.user}")
    refused = 0
    with redis.Redis(port=address.port, username=address.user, password=password, protocol=2) as client:
        assert client.ping()
        for words in (
            ["HGETALL", f"{PRIVATE_ENGINE}||card/a"],
            ["XRANGE", f"engine.{PRIVATE_ENGINE}", "-", "+"],
            ["XADD", f"engine.{PRIVATE_ENGINE}", "*", "data", "forged"],
            ["KEYS", "*"],
            ["ACL", "LIST"],
            ["CONFIG", "GET", "requirepass"],
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)
            refused += 1
    note(f"{refused} x NOPERM")


@pytest.fixture
def running(taken: Taken) -> Iterator[str]:
    """A job of the victim that a shared engine works on."""
    door = taken.door
    job = door.call("POST", f"/v1/engines/{SHARED_ENGINE}/jobs", {"input": {"seconds": 3}}, VICTIM).body["id"]
    until(lambda: door.call("GET", f"/v1/jobs/{job}", tenant=VICTIM).body["status"] == "running", "it runs")
    yield job
    assert door.call("GET", f"/v1/jobs/{job}?wait=30", tenant=VICTIM).body["status"] == "succeeded"


@attempt("forges the completion and the record of another's job", layer="the ledger names whose record is read")
def test_a_forged_completion_and_record_end_no_job(taken: Taken, running: str, note: Noted) -> None:
    record = JobRecord(status=Status.FAILED, attempt=1, worker="w", started_at=now(), finished_at=now())
    own = taken.ports(f"{_OWN}--a")["http"]
    body = [{"key": running, "value": json.loads(record.model_dump_json(exclude_none=True))}]
    assert taken.call(own, f"v1.0/state/{results_component(_OWN)}", body)[0] == 204
    told = [
        taken.publish("completions", completion_event(taken.key, engine, JOB_COMPLETED, running, Status.FAILED, 1))
        for engine in (_OWN, f"shared--{SHARED_ENGINE}")
    ]
    assert told == [204, 204], "it may publish completions"
    mine = taken.door.call("POST", f"/v1/engines/{SHARED_ENGINE}/jobs", {"input": {}}, Prefer="wait=20").body
    assert mine["status"] == "succeeded", "later completions have come as well"
    job = taken.door.call("GET", f"/v1/jobs/{running}", tenant=VICTIM).body
    note(f"the job is {job['status']}")
    assert job["status"] in ("running", "succeeded"), job


@attempt("ends another's job by a dead letter of its own", layer="a proof of its engine's runner in each dead letter")
def test_a_forged_dead_letter_ends_no_job(taken: Taken, running: str, note: Noted) -> None:
    engine = f"shared--{SHARED_ENGINE}"
    letter = DeadLetter(reason="UNPARSABLE", event="a letter", job_id=running)
    order = JobOrder(execution_timeout_seconds=1, retry=RetryPolicy(), record_ttl_seconds=60)
    for body in (
        dead_letter_event(taken.key, engine, new_job_id(), letter),
        one_job_event(taken.key, engine, VICTIM, running, order, expires=now()),
    ):
        assert taken.publish("dead-letters", body) == 204
    until(lambda: running in _unparsable(taken), "the gateway has taken them")
    job = taken.door.call("GET", f"/v1/jobs/{running}", tenant=VICTIM).body
    note(f"the job is {job['status']}")
    assert job["status"] in ("running", "succeeded"), job


@attempt("puts lines of its own into another's progress", layer="a proof of its engine's runner in each event")
def test_a_forged_line_of_progress_is_dropped(taken: Taken, running: str, note: Noted) -> None:
    line = ProgressData(kind="log", value="FROM_A_STRANGER", sequence=1_000_007)
    event = progress_event(taken.key, f"shared--{SHARED_ENGINE}", running, line)
    assert taken.publish("completions", event) == 204
    mine = taken.door.call("POST", f"/v1/engines/{SHARED_ENGINE}/jobs", {"input": {}}, Prefer="wait=20").body
    assert mine["status"] == "succeeded", "later events have come as well"
    shown = json.dumps(taken.door.call("GET", f"/v1/jobs/{running}", tenant=VICTIM).body)
    note("not among its events")
    assert "FROM_A_STRANGER" not in shown


@attempt("puts a dead letter of its own among another tenant's", layer="only the ledger says whose a letter is")
def test_a_forged_dead_letter_is_nobodys(taken: Taken, note: Noted) -> None:
    marker = "FROM_A_STRANGER"
    letter = DeadLetter(reason=marker, event="a letter")
    assert taken.publish("dead-letters", dead_letter_event(taken.key, PRIVATE_ENGINE, new_job_id(), letter)) == 204
    door = taken.door

    until(lambda: marker in _unparsable(taken), "operators see it")
    listed = json.dumps(door.call("GET", "/v1/dead-letters?unparsable=true", tenant=LOCAL_TENANT).body)
    assert marker not in listed, "nothing in it is taken for true"
    shown = json.dumps(door.call("GET", "/v1/dead-letters", tenant=VICTIM).body)
    note("operators see it, its victim does not")
    assert marker not in shown
