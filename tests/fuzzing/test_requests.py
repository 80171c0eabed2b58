"""Random bodies and headers: the gateway answers each with less than 500 and no byte of another tenant, and goes on."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st
from tests.support.break_ins import Noted, attempt
from tests.support.fuzz_gateway import VICTIMS_JOB, Body, FuzzedGateway, fuzzed_gateway
from tests.support.fuzz_values import encoded, objects, texts
from tests.support.fuzzing import fuzz

_JOB = ["input", "input_ref", "engine", "parameters", "priority", "retry", "webhook", "execution_timeout_seconds", "webhook_events_filter"]  # fmt: skip
_EVENT = ["specversion", "id", "source", "type", "engineid", "data", "data_base64", "subject", "time", "tenantid"]
_job = objects(_JOB)
_event = st.tuples(st.integers(0, 10**9), objects(_EVENT)).map(
    lambda parts: f'{{"specversion":"1.0","id":"{parts[0]}","source":"/b","type":"c"' + ("," if len(parts[1]) > 2 else "") + parts[1][1:]
)  # fmt: skip
_BODIES = st.sampled_from([
    *[st.tuples(st.just("/v1/events"), encoded(_event), st.just("application/cloudevents+json"))] * 32,
    *[st.tuples(st.just("/v1/jobs"), encoded(_job), st.just("application/json"))] * 16,
    st.tuples(st.sampled_from(["/v1/jobs", "/v1/engines/echo/jobs"]), encoded(_job | texts), st.just("application/json")),
    st.tuples(st.just("/v1/jobs/batch"), encoded(st.lists(_job, max_size=5).map(lambda jobs: '{"jobs":[' + ",".join(jobs) + "]}")), st.just("application/json")),
    st.tuples(st.just("/v1/events"), encoded(_event | texts), st.just("application/cloudevents+json")),
    st.tuples(st.just("/v1/events"), encoded(st.lists(_event, max_size=4).map(lambda events: "[" + ",".join(events) + "]")), st.just("application/cloudevents-batch+json")),
    st.tuples(st.just("/v1/uploads"), encoded(objects(["content_type"])), st.just("application/json")),
    st.tuples(st.sampled_from(["/v1/jobs", "/v1/events", "/v1/jobs/batch"]), st.binary(max_size=2_000), st.sampled_from(["application/json", "text/plain", "", "application/cloudevents+json"])),
]).flatmap(lambda kind: kind)  # fmt: skip
"""Most are of the two kinds of which many can travel together."""
_WORDS = ["\ud800", "echo", "standard", "shared--standard", "private", "umbra--private", "umbra", VICTIMS_JOB, f"umbra/outputs/{VICTIMS_JOB}.1.json", "1.0", "dev.enginehouse.job.requested.v1", "2026-01-01T00:00:00Z", "text/xml"]  # fmt: skip
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
    st.sampled_from(["/v1/jobs", "/v1/events", "/v1/engines", "/v1/jobs/x", "/v1/dead-letters", "/v1/jobs?limit=x", "/openapi.json", "/v1/engines/%ff/jobs", "/v1/objects/a?expires=1&signature=x", "/", "/v1/engines/umbra--private", f"/v1/jobs?cursor={VICTIMS_JOB}", *(f"/v1/jobs/{VICTIMS_JOB}{more}" for more in ("", "/events", "/cancel", "/retry")), f"/v1/dead-letters/{VICTIMS_JOB}/redrive"]),
    st.lists(st.tuples(st.sampled_from(_NAMES), _value | _long), max_size=6),
)  # fmt: skip


@attempt("sends random events, jobs and batches", layer="bounded and checked at the door")
def test_no_body_is_too_much(tmp_path: Path, note: Noted) -> None:
    async def check(gateway: FuzzedGateway, bodies: Sequence[Body]) -> None:
        await gateway.send_bodies(bodies)

    note(fuzz(lambda: fuzzed_gateway(tmp_path), _BODIES, check, share=0.75, words=_WORDS))


@attempt("sends random headers to all kinds of routes", layer="bounded and checked at the door")
def test_no_header_is_too_much(tmp_path: Path, note: Noted) -> None:
    async def check(gateway: FuzzedGateway, requests: Sequence[tuple[str, str, list[tuple[str, bytes]]]]) -> None:
        for at in range(0, len(requests), 10):
            await asyncio.gather(*(gateway.send_headers(*request) for request in requests[at : at + 10]))

    note(fuzz(lambda: fuzzed_gateway(tmp_path), _HEADERS, check, share=0.02))
