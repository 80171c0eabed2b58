"""The client for operators: dead letters, and engines that are stopped, resumed and purged."""

import json
from collections.abc import Iterator

import httpx2
import pytest
from tests.support.client import JOB, Connect, accepted, connections

from enginehouse.contracts import errors


@pytest.fixture
def connect() -> Iterator[Connect]:
    with connections() as make:
        yield make


LETTER = {
    "id": JOB,
    "engine": "acme--ocr",
    "job_id": JOB,
    "reason": "PREDICT_ERROR",
    "attempts": 3,
    "error": {"code": "PREDICT_ERROR", "message": "it broke"},
    "created_at": "2026-11-22T10:00:00Z",
    "redriven_as": None,
}


def test_dead_letters_follow_the_pages_up_to_the_limit(connect: Connect) -> None:
    pages = [{"dead_letters": [LETTER] * 200, "next_cursor": "c"}, {"dead_letters": [LETTER], "next_cursor": None}]
    client, server = connect(*(httpx2.Response(200, json=page) for page in pages))
    found = list(client.dead_letters(unparsable=True, limit=300))
    assert len(found) == 201
    assert (found[0].reason, found[0].attempts) == ("PREDICT_ERROR", 3)
    assert found[0].error is not None
    assert found[0].error.message == "it broke"
    asked = [dict(request.url.params) for request in server.requests]
    assert asked == [{"unparsable": "true", "limit": "200"}, {"unparsable": "true", "cursor": "c", "limit": "100"}]


def test_a_dead_letter_is_redriven_as_a_new_job_and_discarded(connect: Connect) -> None:
    again = {**accepted().json(), "id": JOB.replace("01890a5d", "01890a5e")}
    client, server = connect(
        httpx2.Response(200, json={**LETTER, "event": "not JSON"}),
        httpx2.Response(202, json=again),
        httpx2.Response(204),
    )
    assert client.dead_letter(JOB).event == "not JSON"
    assert client.redrive(JOB).id == again["id"]
    client.discard(JOB)
    assert [(request.method, request.url.path) for request in server.requests] == [
        ("GET", f"/v1/dead-letters/{JOB}"),
        ("POST", f"/v1/dead-letters/{JOB}/redrive"),
        ("POST", f"/v1/dead-letters/{JOB}/discard"),
    ]


@pytest.mark.parametrize("call", ["discard", "purge"])
def test_what_would_be_done_twice_is_not_sent_again_for_a_lost_answer(connect: Connect, call: str) -> None:
    client, server = connect(httpx2.ReadError("reset"))
    with pytest.raises(errors.Unavailable):
        getattr(client, call)(JOB)
    assert len(server.requests) == 1


def test_all_engines_are_listed_page_by_page(connect: Connect) -> None:
    pages = [("acme--ocr", "acme--ocr"), ("shared--standard", None)]
    answers = [{"engines": [{"id": name, "state": "active"}], "next_cursor": cursor} for name, cursor in pages]
    client, server = connect(*(httpx2.Response(200, json=answer) for answer in answers))
    assert [engine.id for engine in client.engines()] == ["acme--ocr", "shared--standard"]
    assert [request.url.query for request in server.requests] == [b"", b"cursor=acme--ocr"]


def test_many_engines_are_asked_at_once_and_an_update_is_never_sent_twice(connect: Connect) -> None:
    answer = {"engines": [{"engine": "acme--ocr", "replicas": [{"replica": "h:1", "status": 200, "body": [1]}]}]}
    client, server = connect(
        httpx2.Response(200, json=answer), httpx2.Response(200, json=answer), httpx2.ReadError("reset")
    )
    (engine,) = client.engines_info("label.team=nlp")
    assert (engine.engine, engine.replicas[0].body) == ("acme--ocr", [1])
    assert client.update_engines("name=ocr", {"model": "v2"})[0].problem is None
    with pytest.raises(errors.Unavailable):
        client.update_engines()
    asked = [
        (request.method, request.url.path, dict(request.url.params), request.content) for request in server.requests
    ]
    assert asked == [
        ("GET", "/v1/engines:info", {"selector": "label.team=nlp"}, b""),
        ("POST", "/v1/engines:update", {"selector": "name=ocr"}, b'{"model":"v2"}'),
        ("POST", "/v1/engines:update", {}, b"{}"),
    ]


def test_engines_are_stopped_started_and_emptied(connect: Connect) -> None:
    stopped = {"id": "acme--ocr", "state": "quarantined", "reason": "it lies", "health": "healthy"}
    client, server = connect(
        httpx2.ReadError("reset"),
        httpx2.Response(200, json=stopped),
        httpx2.Response(200, json={"id": "acme--ocr", "state": "active"}),
        httpx2.Response(200, json={"canceled": 7}),
    )
    engine = client.quarantine("acme--ocr", "it lies")
    assert (engine.state, engine.reason) == ("quarantined", "it lies")
    assert client.resume("acme--ocr").state == "active"
    assert client.purge("acme--ocr") == 7
    assert json.loads(server.requests[1].content) == {"reason": "it lies"}
    ways = [request.url.path.removeprefix("/v1/engines/acme--ocr/") for request in server.requests]
    assert ways == ["quarantine", "quarantine", "resume", "purge"]
