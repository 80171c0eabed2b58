"""Random bodies and headers: the gateway answers each with less than 500, and goes on."""

import json
from pathlib import Path

from hypothesis import strategies as st
from tests.support.fuzz_values import mutated, objects, texts
from tests.support.fuzzing import fuzz
from tests.support.gateway import GatewayWorld, gateway_world
from tests.support.problems import anonymous
from tests.support.scripted_runner import succeed

_JOB = ["input", "input_ref", "engine", "parameters", "priority", "retry", "webhook", "execution_timeout_seconds", "webhook_events_filter"]  # fmt: skip
_EVENT = ["specversion", "id", "source", "type", "engineid", "data", "data_base64", "subject", "time", "tenantid"]
_job = objects(_JOB)
_event = objects(_EVENT).map(
    lambda text: '{"specversion":"1.0","id":"a","source":"/b","type":"c",' + text[1:].lstrip() if text != "{}" else text
)
_BODIES = st.one_of(
    st.tuples(st.sampled_from(["/v1/jobs", "/v1/engines/echo/jobs"]), mutated(_job | texts), st.just("application/json")),
    st.tuples(st.just("/v1/jobs/batch"), mutated(st.lists(_job, max_size=5).map(lambda jobs: '{"jobs":[' + ",".join(jobs) + "]}")), st.just("application/json")),
    st.tuples(st.just("/v1/events"), mutated(_event | texts), st.just("application/cloudevents+json")),
    st.tuples(st.just("/v1/events"), mutated(st.lists(_event, max_size=4).map(lambda events: "[" + ",".join(events) + "]")), st.just("application/cloudevents-batch+json")),
    st.tuples(st.just("/v1/uploads"), mutated(objects(["content_type"])), st.just("application/json")),
    st.tuples(st.sampled_from(["/v1/jobs", "/v1/events", "/v1/jobs/batch"]), st.binary(max_size=2_000), st.sampled_from(["application/json", "text/plain", "", "application/cloudevents+json"])),
)  # fmt: skip
_NAMES = ["prefer", "idempotency-key", "traceparent", "content-type", "content-length", "content-encoding", "last-event-id", "x-request-id", "authorization", "ce-id", "ce-source", "ce-type", "ce-specversion", "ce-engineid", "ce-time", "accept", "cookie", "dapr-app-id", "transfer-encoding", "webhook-request-origin", "if-none-match"]  # fmt: skip
_value = st.binary(max_size=60) | st.sampled_from(
    [
        b"wait=1e400",
        b"wait=nan",
        b"wait=-5",
        b"1.0",
        b"gzip",
        b"application/json; charset=utf-16",
        b"%00%0d%0a",
    ]
)
_long = st.just(40_000).map(lambda length: b"x" * length)
_HEADERS = st.tuples(
    st.sampled_from(["POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"]),
    st.sampled_from(["/v1/jobs", "/v1/events", "/v1/engines", "/v1/jobs/x", "/v1/dead-letters", "/v1/jobs?limit=x", "/openapi.json", "/v1/engines/%ff/jobs", "/v1/objects/a?expires=1&signature=x", "/"]),
    st.lists(st.tuples(st.sampled_from(_NAMES).map(str.encode), _value | _long), max_size=6),
)  # fmt: skip


def _fine(status: int, content: bytes, content_type: str) -> None:
    assert status < 500, (status, content[:500])
    if content and "json" in content_type:
        json.loads(content)


def test_no_body_is_too_much(tmp_path: Path) -> None:
    async def check(world: GatewayWorld, example: tuple[str, bytes, str]) -> None:
        path, body, content_type = example
        for runner in world.runners.values():
            runner.answer = succeed
        answer = await world.client().post(path, content=body, headers={"Content-Type": content_type})
        _fine(answer.status_code, answer.content, answer.headers.get("content-type", ""))

    fuzz(lambda: gateway_world(tmp_path), _BODIES, check)


def test_no_header_is_too_much(tmp_path: Path) -> None:
    async def check(world: GatewayWorld, example: tuple[str, str, list[tuple[bytes, bytes]]]) -> None:
        method, path, headers = example
        own = [(b"authorization", f"Bearer {world.keys['acme']}".encode())]
        async with anonymous(world, [*own, *headers]) as client:
            answer = await client.request(method, path, content=b'{"input":1}' if method == "POST" else b"")
        _fine(answer.status_code, answer.content, answer.headers.get("content-type", ""))

    fuzz(lambda: gateway_world(tmp_path), _HEADERS, check)
