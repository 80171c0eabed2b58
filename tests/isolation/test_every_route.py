"""Another tenant's key, and none, on every route of the gateway with the real ids of a victim. No new route is forgotten.

An answer must be the same as for ids that nobody has, so that it does not even say what exists.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from fastapi.routing import APIRoute
from tests.support.break_ins import Noted, attempt
from tests.support.gateway import ECHO, GatewayWorld, gateway_world, show_card
from tests.support.generate_docs import every_route
from tests.support.problems import anonymous
from tests.support.scripted_runner import fail
from tests.support.waiting import until_async

from enginehouse.contracts.job import Status
from enginehouse.contracts.names import new_job_id

pytestmark = pytest.mark.asyncio(loop_scope="module")
MARKER = "the-victims-secret-4711"
_VICTIM, _HOSTILE = "acme", "umbra"
_NEUTRAL = {"wait", "known", "unless_by_operator", "Prefer", "traceparent", "status", "limit", "unparsable", "action", "outcome", "since", "until", "Last-Event-ID", "WebHook-Request-Origin", "WebHook-Request-Rate"}  # fmt: skip
"""Parameters that name nothing of anybody."""


@dataclass(frozen=True)
class Ids:
    """Values of all parameters and fields that name something of a tenant."""

    engine: str
    job_id: str
    letter_id: str
    key: str
    """Of an upload, with a signature."""
    tenant: str
    idempotency_key: str

    def parameters(self) -> dict[str, str]:
        """Return them by the names of parameters."""
        common = {"version": "v1", "path": "extra", "Idempotency-Key": self.idempotency_key, "job": self.job_id}
        of_engine = {"engine": self.engine, "model": self.engine, "selector": f"tenant={self.tenant}"}
        own = {"job_id": self.job_id, "letter_id": self.letter_id, "key": self.key, "tenant": self.tenant}
        return {**common, **of_engine, **own, "cursor": self.job_id}

    def bodies(self) -> dict[tuple[str, str], tuple[Any, str]]:
        """Return a body that names them, and its content type, by the method and path of each route that takes one."""
        job, is_json = {"engine": self.engine, "input": 1}, "application/json"
        event = {"specversion": "1.0", "id": "e", "source": "/s", "type": "t", "engineid": self.engine, "data": 1}
        tensor = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [1]}]}
        by_reference = {"engine": f"{_HOSTILE}--private", "input_ref": self.key}
        return {
            ("POST", "/v1/jobs"): (by_reference, is_json),
            ("POST", "/v1/engines/{engine}/jobs"): ({"input": 1}, is_json),
            ("POST", "/v1/jobs/batch"): ({"jobs": [job, by_reference]}, is_json),
            ("POST", "/v1/events"): (event, "application/cloudevents+json"),
            ("POST", "/v1/uploads"): ({"content_type": is_json}, is_json),
            ("POST", "/v1/engines:update"): ({"any": 1}, is_json),
            ("POST", "/v1/engines/{engine}/replay"): ({}, is_json),
            ("POST", "/v1/engines/{engine}/quarantine"): ({"reason": "mine"}, is_json),
            ("POST", "/v1/engines/{engine}/misbehaviour"): ({"misdeed": "denied_commands", "times": 1000}, is_json),
            ("POST", "/v2/models/{model}/infer"): (tensor, is_json),
            ("POST", "/v2/models/{model}/versions/{version}/infer"): (tensor, is_json),
        }

    def hidden_in(self, text: str) -> str:
        """Return the text without the ids themselves, which an answer may repeat, and without those of requests."""
        for value in (self.engine, self.job_id, self.letter_id, self.key, self.tenant, self.idempotency_key):
            text = text.replace(value, "ID")
        return re.sub(r'"request_id": ?"[^"]*"', "", text)


NOBODYS = Ids(
    "acme--nowhere", new_job_id(), new_job_id(), f"nobody/uploads/{new_job_id()}", "nobody", "a-key-of-nobody"
)
PUBLIC = {"/healthz/live", "/healthz/ready", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready", "/openapi.json"}
PUBLIC |= {"/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/v1/engines/docs.css"}
_SIGNED = "/v1/objects/{key}"
"""Needs a signature instead of a key."""
_PAGE = "/v1/engines/{engine}/docs"
"""A page with a form that asks for the key."""
VARYING = {("GET", "/v1/audit"), ("POST", "/v1/uploads")}
"""What lists or makes something of the caller's own, so that no two answers are the same."""


@dataclass(frozen=True)
class World:
    """A gateway, and what the victim has there."""

    gateway: GatewayWorld
    victims: Ids


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("routes")
    objects = (folder / "objects").as_uri()
    async with gateway_world(folder, audit_dir=folder / "audit", objects_url=objects) as gateway:
        await show_card(gateway.dapr, ECHO, description=MARKER)
        await until_async(lambda: (shown := gateway.gateway.catalogue.get(ECHO)) and shown.card)
        acme = gateway.client(_VICTIM)
        headers = {"Idempotency-Key": f"key-{MARKER}"}
        job = (await acme.post("/v1/engines/echo/jobs", json={"input": MARKER}, headers=headers)).json()["id"]
        await gateway.until_status(job, Status.SUCCEEDED)
        gateway.runner.answer = fail
        dead = await gateway.submit(MARKER, retry={"max_attempts": 1})
        await gateway.until_status(dead, Status.FAILED)
        upload = (await acme.post("/v1/uploads", json={"content_type": "text/plain"})).json()
        await acme.put(upload["url"], content=MARKER)
        yield World(gateway, Ids(ECHO, job, dead, upload["key"], _VICTIM, headers["Idempotency-Key"]))


@dataclass(frozen=True)
class Call:
    """A call with a victim's ids, and the same with those of nobody."""

    method: str
    path: str
    theirs: dict[str, Any]
    nobodys: dict[str, Any]


def _filled(route: str, ids: Ids) -> str:
    return route.format(**ids.parameters())


def _described(document: dict[str, Any], method: str, path: str) -> tuple[list[tuple[str, str]], bool]:
    """Return the names and places of an operation's parameters, and whether it takes a body."""
    operation = document["paths"].get(path, {}).get(method.lower(), {})
    found = [(one["name"], one["in"]) for one in operation.get("parameters", ()) if one["in"] != "path"]
    return found, "requestBody" in operation


def calls(document: dict[str, Any], victims: Ids, routes: list[APIRoute]) -> Iterator[Call]:
    """Return each operation with the victim's ids in its path and body, and once more for each of its other places."""
    for method, path in sorted({(m, re.sub(r":\w+}", "}", one.path)) for one in routes for m in one.methods or ()}):
        others, has_body = _described(document, method, path)
        assert not has_body or (method, path) in victims.bodies(), f"{method} {path} needs a body in this matrix"

        def request(
            ids: Ids, name: str = "", place: str = "", method: str = method, path: str = path
        ) -> dict[str, Any]:
            body, kind = ids.bodies().get((method, path), (None, "application/json"))
            value = {name: ids.parameters()[name]} if name else {}
            headers = {"Content-Type": kind, **(value if place == "header" else {})}
            query = value if place == "query" else {"selector": ids.parameters()["selector"]} if ":" in path else {}
            content = None if body is None else json.dumps(body)
            return {"url": _filled(path, ids), "headers": headers, "params": query, "content": content}

        yield Call(method, path, request(victims), request(NOBODYS))
        for name, place in others:
            if name not in _NEUTRAL:
                yield Call(method, path, request(victims, name, place), request(NOBODYS, name, place))


async def _views(world: World) -> list[Any]:
    """Return what the victim sees of its own."""
    paths = (
        "jobs/{job_id}",
        "jobs/{letter_id}",
        "dead-letters/{letter_id}",
        "engines/{engine}",
        "jobs",
        "dead-letters",
    )
    client = world.gateway.client(_VICTIM)
    answers = [await client.get(f"/v1/{_filled(path, world.victims)}") for path in paths]
    # Signed URLs and the time at which a dead letter's event would be sent are new in each answer.
    return [re.sub(r"expires=\d+&signature=\w+|\d{4}-\d\d-\d\dT[\d:.]+Z", "", answer.text) for answer in answers]


def _shows_nothing(world: World, call: Call, answer: httpx2.Response) -> None:
    shown = answer.text + str(answer.headers)
    assert answer.status_code < 500, (call, answer.text)
    assert MARKER not in world.victims.hidden_in(shown), (call, shown)
    if call.path == "/v1/audit":
        # It repeats what the caller itself has asked for.
        assert f'"tenant":"{_VICTIM}"' not in shown, (call, shown)
    else:
        assert ECHO not in shown or ECHO in str(call.theirs), (call, shown)


@attempt(
    "uses another tenant's key on every route with the victim's real ids", layer="each is looked up with its owner"
)
async def test_another_tenants_key_on_every_route(world: World, note: Noted) -> None:
    before = await _views(world)
    client, count = world.gateway.client(_HOSTILE), 0
    for call in calls(world.gateway.app.openapi(), world.victims, every_route()):
        theirs = await client.request(call.method, **call.theirs)
        _shows_nothing(world, call, theirs)
        count += 1
        if (call.method, call.path) in VARYING or call.theirs == call.nobodys:
            continue
        nobodys = await client.request(call.method, **call.nobodys)
        assert theirs.status_code == nobodys.status_code, (call, theirs.text, nobodys.text)
        assert world.victims.hidden_in(theirs.text) == NOBODYS.hidden_in(nobodys.text), call
    assert await _views(world) == before
    note(f"{count} calls, each answered as for ids that nobody has")


@attempt("calls every route without a key, with the victim's real ids", layer="a key for every route")
async def test_every_route_without_a_key(world: World, note: Noted) -> None:
    before, count = await _views(world), 0
    async with anonymous(world.gateway, []) as client:
        for call in calls(world.gateway.app.openapi(), world.victims, every_route()):
            answer = await client.request(call.method, **call.theirs)
            _shows_nothing(world, call, answer)
            is_open = call.path in (*PUBLIC, _PAGE) or call.method == "OPTIONS"
            allowed = {403, 404, 422} if call.path == _SIGNED else {401}
            assert is_open or answer.status_code in allowed, (call, answer.status_code, answer.text)
            count += 1
    assert await _views(world) == before
    note(f"{count} calls")


@pytest.mark.can_fail
async def test_the_matrix_sees_a_route_that_forgets_its_caller(world: World) -> None:
    """With the ids of the hostile tenant's own in the place of the victim's, the same calls show and do something."""
    client, found = world.gateway.client(_VICTIM), set()
    own = replace(world.victims, engine=ECHO)
    for call in calls(world.gateway.app.openapi(), own, every_route()):
        if call.method == "GET":
            answer = await client.request("GET", **call.theirs)
            found |= {call.path} if MARKER in answer.text else set()
    assert found >= {"/v1/jobs/{job_id}", "/v1/jobs/{job_id}/events", "/v1/dead-letters/{letter_id}"}
