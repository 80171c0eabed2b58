"""Upstream systems: events that a tenant's own app publishes become jobs, and the app hears how each job ended."""

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from tests.support.dapr import API_TOKEN, APP_TOKEN, PORTS, DaprdHandle, start_daprd, start_redis
from tests.support.serving import serving
from tests.support.stack import StackHandle, running_stack

from enginehouse.contracts.events import JOB_COMPLETED, JOB_REFUSED, JOB_REQUESTED
from enginehouse.sidecar.delivery import delivery_app

_ENGINES = Path(__file__).resolve().parents[1] / "engines"
_TENANT = "tests"


class Upstream:
    """A tenant's own system: an app with a sidecar that holds the component of its bundle, and nothing else."""

    def __init__(self, daprd: DaprdHandle, heard: "queue.Queue[dict[str, Any]]") -> None:
        self._daprd = daprd
        self._heard = heard

    def publish(self, body: Any, content_type: str = "application/cloudevents+json", metadata: str = "") -> None:
        request = Request(
            f"{self._daprd.url}/publish/tenant-{_TENANT}/requests.{_TENANT}?{metadata}",
            body if isinstance(body, bytes) else json.dumps(body).encode(),
            {"content-type": content_type, "dapr-api-token": API_TOKEN},
        )
        urlopen(request, timeout=10).close()

    def hear(self, kind: str) -> dict[str, Any]:
        event = self._heard.get(timeout=20)
        assert event["type"] == kind, event
        return event


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StackHandle, Upstream]]:
    folder = tmp_path_factory.mktemp("upstream")
    redis = start_redis(folder)
    heard: queue.Queue[dict[str, Any]] = queue.Queue()

    async def hear(body: bytes) -> bool:
        heard.put(json.loads(body))
        return True

    url = f"redis://:{redis.address.password}@127.0.0.1:{redis.address.port}"
    try:
        with running_stack(folder / "home", [_ENGINES / "echo"], env={"REDIS_URL": url}) as handle:
            listening = {
                "apiVersion": "dapr.io/v2alpha1",
                "kind": "Subscription",
                "metadata": {"name": "finished"},
                "spec": {
                    "pubsubname": f"tenant-{_TENANT}",
                    "topic": f"finished.{_TENANT}",
                    "routes": {"default": "/finished"},
                },
            }
            systems = handle.home.tenants / _TENANT / "systems"
            (folder / "own").mkdir()
            (folder / "own" / "finished.yaml").write_text(yaml.safe_dump(listening))
            port = PORTS.take()
            with serving(delivery_app({"/finished": hear}, APP_TOKEN, lambda: True), port):
                daprd = start_daprd(
                    f"tenant-{_TENANT}",
                    [systems, folder / "own"],
                    folder / "upstream.log",
                    env=redis.environment(),
                    app_port=port,
                )
                try:
                    yield handle, Upstream(daprd, heard)
                finally:
                    daprd.stop()
    finally:
        redis.stop()


def _event(number: str, **changes: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": number, "source": "/orders", "type": "com.example.order", **changes}


def test_an_event_becomes_a_job_and_its_end_is_told(stack: tuple[StackHandle, Upstream]) -> None:
    handle, upstream = stack
    upstream.publish(_event("1", engineid="echo", data={"order": 1}))
    told = upstream.hear(JOB_COMPLETED)
    assert told["data"]["output"] == {"order": 1}
    assert told["correlationid"] == told["data"]["correlationid"] == "1"
    assert told["data"]["event"] == {"id": "1", "source": "/orders", "type": "com.example.order"}
    job = handle.call("GET", f"/v1/jobs/{told['subject']}", tenant=_TENANT).body
    assert (job["status"], job["engine"]) == ("succeeded", "tests--echo")


def test_the_same_event_twice_is_one_job_and_is_answered_with_it(stack: tuple[StackHandle, Upstream]) -> None:
    handle, upstream = stack
    before = {job["id"] for job in handle.call("GET", "/v1/jobs", tenant=_TENANT).body["jobs"]}
    answers = []
    for _ in range(2):
        upstream.publish(_event("2", engineid="echo", data=2))
        answers.append(upstream.hear(JOB_COMPLETED)["data"])
    assert answers[0] == answers[1]
    after = {job["id"] for job in handle.call("GET", "/v1/jobs", tenant=_TENANT).body["jobs"]}
    assert after - before == {answers[0]["id"]}


def test_a_plain_body_published_through_a_sidecar_is_a_request(stack: tuple[StackHandle, Upstream]) -> None:
    _, upstream = stack
    upstream.publish({"engine": "echo", "input": [None, 4]}, "application/json")
    assert upstream.hear(JOB_COMPLETED)["data"]["output"] == [None, 4]


@pytest.mark.parametrize(
    ("body", "metadata", "said"),
    [
        # Dapr makes `type` an attribute of the event, and `engineid` none.
        (
            {"text": "x"},
            "metadata.cloudevent.type=com.example.t&metadata.cloudevent.engineid=echo",
            "cloudevent.engineid",
        ),
        ({"input": 1}, "metadata.cloudevent.correlationid=c", "cloudevent.correlationid"),
        ({"engine": "echo", "input": 1}, "metadata.cloudevent.type=com.example.t", "The data names an engine"),
        ({"text": "x"}, "", "text"),
    ],
)
def test_metadata_and_data_that_would_lead_to_another_engine_are_refused(
    stack: tuple[StackHandle, Upstream], body: Any, metadata: str, said: str
) -> None:
    _, upstream = stack
    upstream.publish(body, "application/json", metadata)
    assert said in upstream.hear(JOB_REFUSED)["data"]["detail"]


def test_metadata_of_the_publish_names_the_event_and_its_data_the_engine(stack: tuple[StackHandle, Upstream]) -> None:
    _, upstream = stack
    metadata = "metadata.cloudevent.id=m1&metadata.cloudevent.source=/m&metadata.cloudevent.engineid=echo"
    upstream.publish({"engine": "echo", "input": 1}, "application/json", metadata)
    told = upstream.hear(JOB_COMPLETED)["data"]
    assert (told["engine"], told["event"]["id"], told["event"]["source"]) == ("tests--echo", "m1", "/m")


def test_bytes_that_a_sidecar_breaks_are_refused_and_whole_ones_reach_the_engine(
    stack: tuple[StackHandle, Upstream],
) -> None:
    _, upstream = stack
    # As a picture, daprd puts the bytes into the event as text, and replaces what is not UTF-8.
    upstream.publish(b"\x00\xff", "image/png", "metadata.cloudevent.type=com.example.picture")
    assert "data_base64" in upstream.hear(JOB_REFUSED)["data"]["detail"]
    upstream.publish(_event("b1", engineid="echo", datacontenttype="image/png", data_base64="AP8="))
    assert upstream.hear(JOB_COMPLETED)["data"]["output"] == "AP8="


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (_event("5", engineid="no-such-engine", data=1), "ENGINE_DOES_NOT_EXIST"),
        (_event("6", type=JOB_REQUESTED, data={"engine": "echo", "input": 1, "bogus": 2}), "INVALID_REQUEST"),
        (_event("7", type=JOB_REQUESTED, data={"engine": "other--engine", "input": 1}), "ENGINE_DOES_NOT_EXIST"),
    ],
)
def test_a_refusal_is_told_back_with_what_would_be_right(
    stack: tuple[StackHandle, Upstream], event: dict[str, Any], code: str
) -> None:
    _, upstream = stack
    upstream.publish(event)
    told = upstream.hear(JOB_REFUSED)
    assert told["data"]["code"] == code
    assert told["data"]["advice"]
    assert told["data"]["event"]["id"] == event["id"]


def test_a_malformed_trace_does_not_harm_the_gateways_sidecar(stack: tuple[StackHandle, Upstream]) -> None:
    handle, upstream = stack
    before = handle.pid("gateway.daprd")
    upstream.publish(_event("8", engineid="echo", data=8, traceparent="nonsense"))
    assert upstream.hear(JOB_COMPLETED)["data"]["output"] == 8
    assert handle.pid("gateway.daprd") == before


def test_over_http_in_every_mode(stack: tuple[StackHandle, Upstream]) -> None:
    handle, upstream = stack
    binary = {f"ce-{name}": value for name, value in _event("9", engineid="echo").items()}
    structured = {"content-type": "application/cloudevents+json"}
    batch = {"content-type": "application/cloudevents-batch+json"}
    answer = handle.call("POST", "/v1/events", {"n": 9}, tenant=_TENANT, headers=binary)
    assert answer.status == 202, answer
    again = handle.call("POST", "/v1/events", {"n": 9}, tenant=_TENANT, headers=binary)
    assert again.body["id"] == answer.body["id"]
    event = _event("10", engineid="echo", data=10)
    assert handle.call("POST", "/v1/events", event, tenant=_TENANT, headers=structured).status == 202
    many = handle.call(
        "POST", "/v1/events", [_event("11", engineid="echo", data=11), {}], tenant=_TENANT, headers=batch
    )
    assert "id" in many.body["jobs"][0]
    assert many.body["jobs"][1]["problem"]["code"] == "INVALID_REQUEST"
    outputs = [upstream.hear(JOB_COMPLETED)["data"]["output"] for _ in range(3)]
    assert sorted(outputs, key=str) == [10, 11, {"n": 9}]
