"""The OpenAPI document names the key, the headers and the answers; the page that shows it loads nothing from elsewhere."""

import asyncio
import re
import threading
from typing import Any

import pytest
from tests.support.gateway import GatewayWorld
from tests.support.generate_docs import callers
from tests.support.problems import anonymous

SUBMITS = ["/v1/jobs", "/v1/engines/{engine}/jobs"]
AGAIN = ["/v1/jobs/batch", "/v1/jobs/{job_id}/retry", "/v1/dead-letters/{letter_id}/redrive"]


@pytest.fixture
def document(world: GatewayWorld) -> dict[str, Any]:
    return dict(world.app.openapi())


def headers_of(operation: dict[str, Any]) -> set[str]:
    return {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "header"}


def test_each_call_that_needs_a_key_says_so(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for (method, path), who in callers().items():
        operation = document["paths"][path][method.lower()]
        assert operation.get("security", []) == ([] if who == "everybody" else [{"key": []}]), (method, path)


def test_the_headers_that_a_call_reads_are_parameters(document: dict[str, Any]) -> None:
    for path in SUBMITS:
        assert headers_of(document["paths"][path]["post"]) == {"Prefer", "Idempotency-Key", "traceparent"}
    for path in AGAIN:
        assert headers_of(document["paths"][path]["post"]) == {"Idempotency-Key", "traceparent"}
    assert headers_of(document["paths"]["/v1/jobs/{job_id}"]["get"]) == {"Prefer"}
    assert headers_of(document["paths"]["/v1/jobs/{job_id}/events"]["get"]) == {"Last-Event-ID"}


def test_the_headers_of_answers_are_described(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                assert "X-Request-Id" in answer["headers"]
                assert ("Retry-After" in answer["headers"]) == (status in ("429", "503"))
    for path in (*SUBMITS, "/v1/events", *AGAIN[1:]):
        assert "Location" in document["paths"][path]["post"]["responses"]["202"]["headers"]


async def test_the_document_is_written_once_off_the_loop_and_sent_again_only_if_it_changed(world: GatewayWorld) -> None:
    world.app.openapi_schema = None
    vars(world.app.state)["_state"].pop("description", None)
    written: list[str] = []
    write = world.app.openapi

    def noting() -> dict[str, Any]:
        written.append(threading.current_thread().name)
        return write()

    world.app.openapi = noting  # type: ignore[method-assign]
    try:
        async with anonymous(world, []) as client:
            first, *others = await asyncio.gather(*(client.get("/openapi.json") for _ in range(5)))
            assert first.json() == write()
            assert {answer.content for answer in others} == {first.content}
            again = await client.get("/openapi.json", headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            changed = await client.get("/openapi.json", headers={"If-None-Match": '"another"'})
            assert (changed.status_code, changed.content) == (200, first.content)
    finally:
        del world.app.openapi
    assert len(written) == 1
    assert written != [threading.current_thread().name]


async def test_the_page_loads_its_own_files_only(world: GatewayWorld) -> None:
    page = await world.client().get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "://" not in page.text
    assert not re.search(r"<script>|<style|style=|\son\w+=", page.text)
    files = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(files) == 3
    for name in files:
        answer = await world.client().get(f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] in ("text/javascript", "text/css")
        assert answer.content
    start = (await world.client().get("/docs/start.js")).text
    assert re.search(r'url: "openapi.json"', start)
    assert "validatorUrl: null" in start


async def test_the_handshake_of_web_hooks_is_answered(world: GatewayWorld) -> None:
    asked = {"WebHook-Request-Origin": "eventemitter.example.com", "WebHook-Request-Rate": "120"}
    answer = await world.client().options("/v1/events", headers=asked)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["webhook-allowed-origin"] == "eventemitter.example.com"
    assert answer.headers["webhook-allowed-rate"] == "60000"
    assert "POST" in answer.headers["allow"]
    for wrong in ({}, {"WebHook-Request-Origin": "a b"}, {"WebHook-Request-Origin": "a%0d%0ax"}):
        refused = await world.client().options("/v1/events", headers=wrong)
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_HEADER")
        assert "webhook-allowed-origin" not in refused.headers


async def test_the_handshake_needs_no_key_and_takes_no_wrong_one(world: GatewayWorld) -> None:
    for key, status in (("", 204), ("Bearer wrong", 401)):
        headers = {"WebHook-Request-Origin": "a.example", **({"Authorization": key} if key else {})}
        async with anonymous(world, []) as client:
            assert (await client.options("/v1/events", headers=headers)).status_code == status
