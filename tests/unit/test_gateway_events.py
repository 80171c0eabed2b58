"""POST /v1/events turns events into jobs, and refuses the others without storing anything."""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.support.gateway import GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.events import JOB_COMPLETED, JOB_REFUSED
from enginehouse.contracts.job import Status

pytestmark = pytest.mark.asyncio(loop_scope="module")
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "com.example.t", "engineid": "echo"}
BINARY = {"ce-specversion": "1.0", "ce-source": "/s", "ce-type": "com.example.t", "ce-engineid": "echo"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path_factory.mktemp("gateway")) as made:
        yield made


async def refused(world: GatewayWorld, body: bytes, headers: dict[str, str], status: int = 422) -> str:
    """Post what must be refused and leave nothing behind; the reason given."""
    before = await world.stored()
    answer = await world.client().post("/v1/events", content=body, headers=headers)
    assert await world.stored() == before
    return str(problem_of(answer, status)["detail"])


def event(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in (EVENT | changes).items() if value is not ...}).encode()


def raw(data: bytes) -> bytes:
    return event(id="raw")[:-1] + b',"data":' + data + b"}"


WRONG = {
    "nothing": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "no id": event(id=...),
    "an empty source": event(source=""),
    "a type that is no text": event(type=5),
    "an old version": event(specversion="0.3"),
    "a time that is none": event(time="yesterday"),
    "an engine that is no text": event(engineid={}),
    "an engine that is a number": event(engineid=5),
    "an engine without a name": event(engineid=""),
    "an attribute with a wrong name": event(**{"Bad-Name": 1}),
    "a subject that is no text": event(subject=5),
    "two kinds of data": event(data=1, data_base64="AA=="),
    "data_base64 that is none": event(data_base64="!"),
    "a control character": event(id="a\nb"),
    "a lone surrogate": b'{"id":"\\ud800"' + event()[1:],
    "NaN": raw(b"NaN"),
    "a number beyond all numbers": raw(b"1e400"),
    "190 levels": raw(b"[" * 190 + b"]" * 190),
    "10,000 levels": raw(b"[" * 10_000 + b"]" * 10_000),
    "a request with unknown fields": event(type="dev.enginehouse.job.requested.v1", data={"inptu": 1}),
    "a request that is text": event(type="com.dapr.event.sent", datacontenttype="text/plain", data='{"input": 1}'),
    "a request that is none": event(type="dev.enginehouse.job.requested.v1", data=[1]),
    "two engines": event(type="dev.enginehouse.job.requested.v1", data={"engine": "other", "input": 1}),
    "an engine inside of an input": event(engineid=..., data={"engine": "echo", "input": 1}),
    "an engine inside of an input by reference": event(engineid=..., data={"engine": "echo", "input_ref": "x"}),
    "text in the place of bytes": event(datacontenttype="image/png", data="AP8="),
    "bytes that are not the JSON they say": event(datacontenttype="application/json", data_base64="e3s="),
    "bytes that are not the text they say": event(datacontenttype="text/plain", data_base64="AP8="),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
async def test_what_is_no_event_is_refused(world: GatewayWorld, body: bytes) -> None:
    await refused(world, body, STRUCTURED)


async def test_an_event_for_an_engine_that_is_not_there_or_with_too_much_in_it(world: GatewayWorld) -> None:
    await refused(world, event(engineid="none-such"), STRUCTURED, 404)
    await refused(world, event(engineid="umbra--private"), STRUCTURED, 404)
    await refused(world, event(data="x" * 70_000), STRUCTURED, 413)


WRONG_BINARY: dict[str, tuple[dict[str, str], bytes]] = {
    "no id": ({}, b"1"),
    "an empty id": ({"ce-id": ""}, b"1"),
    "an old version": ({"ce-id": "1", "ce-specversion": "0.3"}, b"1"),
    "a time that is none": ({"ce-id": "1", "ce-time": "x"}, b"1"),
    "an attribute with a wrong name": ({"ce-id": "1", "ce-a-b": "1"}, b"1"),
    "an empty engine": ({"ce-id": "1", "ce-engineid": ""}, b"1"),
    "JSON that is none": ({"ce-id": "1"}, b"{"),
    "NaN": ({"ce-id": "1"}, b"NaN"),
    "10,000 levels": ({"ce-id": "1"}, b"[" * 10_000),
    "not UTF-8": ({"ce-id": "1"}, b'"\xff"'),
    "text that is not UTF-8": ({"ce-id": "1", "content-type": "text/plain"}, b"\xff"),
}


@pytest.mark.parametrize(("headers", "body"), WRONG_BINARY.values(), ids=WRONG_BINARY.keys())
async def test_what_is_no_event_in_headers_either_is_refused(
    world: GatewayWorld, headers: dict[str, str], body: bytes
) -> None:
    await refused(world, body, BINARY | {"content-type": "application/json"} | headers)


async def test_what_is_neither_structured_nor_binary_is_refused(world: GatewayWorld) -> None:
    assert "Content-Type" in await refused(world, b"{}", {"content-type": "application/json"}, 415)


@pytest.mark.parametrize("body", [b"{}", b"[", b"[NaN]", b"[" * 5_000, b"[" + b"1," * 1_000 + b"1]"])
async def test_what_is_no_batch_is_refused(world: GatewayWorld, body: bytes) -> None:
    await refused(world, body, BATCH)


async def test_in_a_batch_each_event_is_taken_or_refused_on_its_own(world: GatewayWorld) -> None:
    body = b"[1,null,[]," + event(id="batched", data=7) + b"," + event(id=...) + b"]"
    answer = await world.client().post("/v1/events", content=body, headers=BATCH)
    assert answer.status_code == 202
    answers = answer.json()["jobs"]
    assert [item.get("problem", {}).get("status") for item in answers] == [422, 422, 422, None, 422]
    assert (await world.until_status(answers[3]["id"], Status.SUCCEEDED))["output"] == {"echo": 7}


async def test_the_same_event_is_the_same_job_and_another_sources_is_not(world: GatewayWorld) -> None:
    ids = []
    for body in (event(id="same"), event(id="same"), event(id="same", source="/other")):
        ids.append((await world.client().post("/v1/events", content=body, headers=STRUCTURED)).json()["id"])
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("between", [" ", '","', "\u2028", "|"])
async def test_no_separator_parts_a_source_from_its_id(world: GatewayWorld, between: str) -> None:
    ids = []
    for body in (event(source=f"/a{between}b", id="c"), event(source="/a", id=f"b{between}c")):
        ids.append((await world.client().post("/v1/events", content=body, headers=STRUCTURED)).json()["id"])
    assert ids[0] != ids[1]


async def test_another_event_of_the_same_name_is_refused_in_words_of_events(world: GatewayWorld) -> None:
    answer = await world.client().post("/v1/events", content=event(id="twice", data=1), headers=STRUCTURED)
    assert answer.status_code == 202
    before = await world.stored()
    answer = await world.client().post("/v1/events", content=event(id="twice", data=2), headers=STRUCTURED)
    said = problem_of(answer, 422, "EVENT_REUSED")
    assert "source and id" in said["detail"]
    assert "Idempotency-Key" not in answer.text
    assert await world.stored() == before


CONTENTS: dict[str, tuple[bytes, Any]] = {
    "application/json": (b'{"a":1}', {"a": 1}),
    "application/problem+json": (b"[1]", [1]),
    "text/plain": (b"hello", "hello"),
    "text/csv; charset=utf-8": ("Zoë,1".encode(), "Zoë,1"),
    "application/xml": (b"<a/>", "<a/>"),
    "application/octet-stream": (b"hello", "aGVsbG8="),
    "image/png": (b"\x00\xff", "AP8="),
    "application/pdf": (b"{}", "e30="),
}


@pytest.mark.parametrize(("content_type", "content"), CONTENTS.items(), ids=CONTENTS.keys())
async def test_content_type_alone_says_what_the_engine_gets_in_either_mode(
    world: GatewayWorld, content_type: str, content: tuple[bytes, Any]
) -> None:
    body, given = content
    encoded = {"datacontenttype": content_type, "data_base64": base64.b64encode(body).decode()}
    sent = [
        (body, BINARY | {"ce-id": f"headers {content_type}", "content-type": content_type}),
        (event(id=f"base64 {content_type}", **encoded), STRUCTURED),
    ]
    for content_sent, headers in sent:
        answer = await world.client().post("/v1/events", content=content_sent, headers=headers)
        assert answer.status_code == 202, answer.text
        delivered = await world.delivered(answer.json()["id"])
        assert delivered.data.input == given


async def test_without_a_content_type_a_body_is_json_and_other_bytes_are_refused(world: GatewayWorld) -> None:
    # The client adds no Content-Type to bytes.
    answer = await world.client().post("/v1/events", content=b"[1]", headers=BINARY | {"ce-id": "no type"})
    assert (await world.delivered(answer.json()["id"])).data.input == [1]
    assert "content type" in await refused(world, b"hello", BINARY | {"ce-id": "no type either"})


@pytest.mark.parametrize("name", ["engineid", "correlationid"])
async def test_an_attribute_that_a_sidecar_left_out_is_not_ignored(world: GatewayWorld, name: str) -> None:
    before, told = await world.stored(), len(heard(world, JOB_REFUSED))
    assert await world.gateway.events.deliver(event(id="left out", engineid=...), "acme", {name: "ocr"})
    assert await world.stored() == before
    await until_async(lambda: len(heard(world, JOB_REFUSED)) == told + 1)
    assert f"cloudevent.{name}" in heard(world, JOB_REFUSED)[-1]["data"]["detail"]


async def test_an_attribute_that_the_event_has_as_well_or_that_means_nothing_is_taken(world: GatewayWorld) -> None:
    dropped = {"engineid": "echo", "correlationid": "c", "mood": "good"}
    assert await world.gateway.events.deliver(event(id="both", correlationid="c", data=5), "acme", dropped)
    await until_async(lambda: "both" in asked_by(world))


async def test_an_answer_names_the_event_in_its_data_and_a_repeated_event_is_answered_again(
    world: GatewayWorld,
) -> None:
    asked = event(id="q", source="/billing", correlationid="thread-1", data=1)
    assert await world.gateway.events.deliver(asked, "acme")
    await until_async(lambda: asked_by(world).count("q") == 1)
    assert await world.gateway.events.deliver(asked, "acme")
    await until_async(lambda: asked_by(world).count("q") == 2)
    first, again = [told for told in heard(world, JOB_COMPLETED) if told["data"]["event"]["id"] == "q"]
    assert first["data"] == again["data"]
    assert first["data"]["event"] == {"id": "q", "source": "/billing", "type": "com.example.t"}
    assert first["data"]["correlationid"] == first["correlationid"] == again["correlationid"] == "thread-1"
    assert first["subject"] == again["subject"] == first["data"]["id"]
    assert first["id"] != again["id"]


async def test_a_repeated_event_whose_result_is_gone_is_told_so(world: GatewayWorld) -> None:
    asked = event(id="gone", data=1)
    assert await world.gateway.events.deliver(asked, "acme")
    await until_async(lambda: "gone" in asked_by(world))
    (job,) = {told["subject"] for told in heard(world, JOB_COMPLETED) if told["data"]["event"]["id"] == "gone"}
    await world.change(job, result_expires_at=time.time() - 1)
    told = len(heard(world, JOB_REFUSED))
    assert await world.gateway.events.deliver(asked, "acme")
    await until_async(lambda: len(heard(world, JOB_REFUSED)) == told + 1)
    data = heard(world, JOB_REFUSED)[-1]["data"]
    assert (data["code"], data["event"]["id"], data["correlationid"]) == ("RESULT_EXPIRED", "gone", "gone")


@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", event(engineid="none-such"), event(id="x", data="x" * 70_000)])
async def test_of_an_event_that_came_over_a_topic_a_refusal_is_told(world: GatewayWorld, body: bytes) -> None:
    before, told = await world.stored(), len(heard(world, JOB_REFUSED))
    assert await world.gateway.events.deliver(body, "acme")
    assert await world.stored() == before
    await until_async(lambda: len(heard(world, JOB_REFUSED)) == told + 1)
    data = heard(world, JOB_REFUSED)[-1]["data"]
    assert data["code"]
    assert data["detail"]
    assert data["advice"]


def heard(world: GatewayWorld, kind: str) -> list[dict[str, Any]]:
    """What acme's systems heard: events of this type."""
    events = [json.loads(event) for event in world.dapr.published[names.finished_topic("acme")]]
    return [event for event in events if event["type"] == kind]


def asked_by(world: GatewayWorld) -> list[str]:
    """The ids of the events whose jobs' ends acme's systems heard."""
    return [told["data"]["event"]["id"] for told in heard(world, JOB_COMPLETED)]


async def test_an_event_over_the_topic_of_nobody_ends(world: GatewayWorld) -> None:
    before = await world.stored()
    assert await world.gateway.events.deliver(event(id="nobody"), "nobody")
    assert await world.stored() == before


async def test_an_event_of_a_tenant_that_cannot_be_read_comes_again(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await world.stored()
    folder = world.gateway.settings.tenants_dir
    (folder / "soon").mkdir()  # Its file is being written.
    assert not await world.gateway.events.deliver(event(id="soon"), "soon")
    monkeypatch.setattr(world.gateway.tenants, "_folder", folder / "away")
    assert not await world.gateway.events.deliver(event(id="nobody"), "nobody")
    assert await world.stored() == before
