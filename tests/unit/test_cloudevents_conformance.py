"""Our events pass the cases of the CloudEvents project's conformance suite (HTTP binding, JSON format)."""

import base64
import json
import time
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from tests.support.job_events import one_job_event
from tests.support.proofs import key_of

from enginehouse.contracts import events
from enginehouse.contracts.cloud_event import CONTENT_TYPE
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.job import RetryPolicy, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.intake.event_reader import binary_event, read_batch, read_structured
from enginehouse.gateway.ledger.outbox import event_notice

SOURCE = "/mycontext/subcontext"
ATTRIBUTES = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "time": "2018-04-05T03:56:24Z",
    "id": "1234-1234-1234",
    "source": SOURCE,
}


def _attributes_match(event: BaseCloudEvent, content_type: str) -> None:
    attributes = dict(event.get_attributes())
    moment = attributes.pop("time")
    assert moment.isoformat() == "2018-04-05T03:56:24+00:00"
    assert attributes == {k: v for k, v in ATTRIBUTES.items() if k != "time"} | {"datacontenttype": content_type}


def binary(headers: dict[str, str], body: bytes) -> BaseCloudEvent:
    return binary_event([(name.encode(), value.encode()) for name, value in headers.items()], body)


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8"])
def test_binary_content_mode(content_type: str) -> None:
    headers = {f"ce-{name}": value for name, value in ATTRIBUTES.items()} | {"content-type": content_type}
    event = binary(headers, b'{\n    "message": "Hello World!"\n}')
    _attributes_match(event, content_type)
    assert event.get_data() == {"message": "Hello World!"}


def test_structured_content_mode() -> None:
    body = ATTRIBUTES | {"datacontenttype": "application/json", "data": {"message": "Hello World!"}}
    event = read_structured(json.dumps(body).encode())
    _attributes_match(event, "application/json")
    assert event.get_data() == {"message": "Hello World!"}


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("text/plain; charset=us-ascii", "Hello, World!", "Hello, World!"),
        ("text/plain; charset=utf-8", "Hello, 🌎!", "Hello, 🌎!"),
        ("application/json; charset=utf-8", '"Hello, 🌎!"', "Hello, 🌎!"),
        ("application/json; charset=utf-8", '{"msg":"Hello, 🌎!"}', {"msg": "Hello, 🌎!"}),
        ("application/json; charset=utf-8", '["Hello","🌎!"]', ["Hello", "🌎!"]),
        ("application/xml; charset=utf-8", "<msg>Hello, 🌎!</msg>", "<msg>Hello, 🌎!</msg>"),
    ],
)
def test_minimal_events_in_binary_and_structured_mode(content_type: str, body: str, data: Any) -> None:
    minimum = {"specversion": "1.0", "type": "io.cloudevents.minimum", "id": "conformance-0001", "source": SOURCE}
    headers = {f"ce-{name}": value for name, value in minimum.items()} | {"content-type": content_type}
    assert binary(headers, body.encode()).get_data() == data
    structured = json.dumps(minimum | {"datacontenttype": content_type, "data": data}).encode()
    assert read_structured(structured).get_data() == data


def test_extensions_and_binary_data_are_kept() -> None:
    extended = ATTRIBUTES | {"comexampleextension1": "value", "comexampleextension2": '{"othervalue": 5}'}
    body = extended | {"data_base64": base64.b64encode(b"\xff\x00").decode()}
    event = read_structured(json.dumps(body).encode())
    assert event.get_extension("comexampleextension2") == '{"othervalue": 5}'
    assert event.get_data() == b"\xff\x00"


def test_many_names_are_looked_through_at_once() -> None:
    body = b"{%s}" % b",".join(b'"n%d":1' % (number % 6_000) for number in range(6_001))
    began = time.process_time()
    with pytest.raises(RequestError, match="'n0' may be given only once"):
        read_structured(body)
    assert time.process_time() - began < 0.25


def test_a_batch_is_its_events() -> None:
    (found,) = read_batch(json.dumps([ATTRIBUTES]).encode(), 5)
    assert not isinstance(found, RequestError)
    assert found.get_id() == "1234-1234-1234"
    twice = json.dumps(ATTRIBUTES).encode()[:-1] + b', "id": "another"}'
    first, second = read_batch(b"[%s, %s]" % (json.dumps(ATTRIBUTES | {"data": {"a": {"a": 1}}}).encode(), twice), 5)
    assert not isinstance(first, RequestError)
    with pytest.raises(RequestError, match="'id' may be given only once"):
        raise second  # type: ignore[misc]
    for wrong in (b"{}", b"nope", json.dumps([ATTRIBUTES] * 6).encode()):
        with pytest.raises(RequestError):
            read_batch(wrong, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        b"3",
        b"\xff",
        json.dumps({k: v for k, v in ATTRIBUTES.items() if k != "id"}).encode(),
        json.dumps(ATTRIBUTES | {"source": ""}).encode(),
        json.dumps(ATTRIBUTES | {"specversion": "0.3"}).encode(),
        json.dumps(ATTRIBUTES | {"time": "yesterday"}).encode(),
        json.dumps(ATTRIBUTES | {"Bad_Name": "x"}).encode(),
        json.dumps(ATTRIBUTES | {"data": 1, "data_base64": "AA=="}).encode(),
        json.dumps(ATTRIBUTES | {"data_base64": "?"}).encode(),
        json.dumps(ATTRIBUTES).encode()[:-1] + b', "id": "another"}',
        json.dumps(ATTRIBUTES | {"data": 1}).encode()[:-1] + b', "data": 2}',
        json.dumps(ATTRIBUTES | {"comexampleextension1": "x" * 40_000}).encode(),
    ],
)
def test_what_is_no_event_is_refused_with_a_reason(wrong: bytes) -> None:
    with pytest.raises(RequestError, match="CloudEvent"):
        read_structured(wrong)


def test_everything_we_emit_is_an_event_to_the_official_sdk() -> None:
    job_id, engine = new_job_id(), "acme--ocr"
    order = events.JobOrder(input=None, execution_timeout_seconds=1, retry=RetryPolicy(), record_ttl_seconds=1)
    emitted = [
        one_job_event(key_of(engine), engine, "acme", job_id, order, expires=now()),
        events.completion_event(key_of(engine), engine, events.JOB_COMPLETED, job_id, Status.SUCCEEDED, 1),
        events.dead_letter_event(key_of(engine), engine, job_id, events.DeadLetter(reason="UNPARSABLE")),
        events.progress_event(key_of(engine), engine, job_id, events.ProgressData(kind="log", value="x", sequence=1)),
        event_notice("acme", events.JOB_COMPLETED, {"id": job_id}, job_id, None).body.encode(),
    ]
    for body in emitted:
        event = from_http_event(HTTPMessage(headers={"content-type": CONTENT_TYPE}, body=body))
        assert event.get_specversion() == "1.0"
        assert event.get_time() is not None
