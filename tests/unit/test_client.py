"""The client's requests, when it repeats them, and the exception of each refusal."""

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.support import derive_sync
from tests.support.client import JOB, QUICK, Answer, Connect, Server, accepted, connections, job, problem

from enginehouse import client as client_package
from enginehouse.client import AsyncClient, CannotConnect, Client, SubmitOptions
from enginehouse.contracts import errors
from enginehouse.contracts.job import JobOptions, JobRequest


@pytest.fixture
def connect() -> Iterator[Connect]:
    with connections() as make:
        yield make


def test_a_submit_carries_key_input_options_and_a_key_of_its_own(connect: Connect) -> None:
    client, server = connect(accepted(), accepted())
    handle = client.submit("ocr", {"a": None}, priority=9, retry={"max_attempts": 2})
    client.submit("ocr", None)
    (first, second) = server.requests
    assert str(first.url) == "http://gate/v1/engines/ocr/jobs"
    assert first.headers["authorization"] == "Bearer secret"
    assert "prefer" not in first.headers
    assert json.loads(first.content) == {"input": {"a": None}, "priority": 9, "retry": {"max_attempts": 2}}
    assert json.loads(second.content) == {"input": None}
    assert server.keys[0] != server.keys[1]
    assert (handle.id, handle.engine, handle.done) == (JOB, "acme--ocr", False)


def test_an_input_by_reference_goes_instead_of_the_input(connect: Connect) -> None:
    client, server = connect(accepted())
    client.submit("ocr", input_ref="some/key", idempotency_key="mine")
    assert json.loads(server.requests[0].content) == {"input_ref": "some/key"}
    assert server.keys == ["mine"]


@pytest.mark.parametrize(
    "trouble",
    [
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("closed"),
        httpx2.ReadTimeout("late"),
        httpx2.Response(502, text="<html>bad gateway</html>"),
        problem(503, "UNAVAILABLE", {"retry-after": "0.01"}),
        problem(429, "RATE_LIMITED", {"retry-after": "0.01"}),
    ],
    ids=repr,
)
def test_a_submit_is_sent_again_with_the_same_key(connect: Connect, trouble: Answer) -> None:
    client, server = connect(trouble, accepted())
    assert client.submit("ocr", 1).id == JOB
    assert len(server.requests) == 2
    assert len(set(server.keys)) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(404, "ENGINE_DOES_NOT_EXIST"), errors.EngineDoesNotExist),
        (problem(422, "INVALID_INPUT"), errors.InvalidInput),
        (problem(413, "INPUT_TOO_LARGE"), errors.InputTooLarge),
        (problem(401, "UNAUTHENTICATED"), errors.Unauthenticated),
        (problem(409, "IDEMPOTENCY_KEY_REUSED"), errors.IdempotencyKeyReused),
        (problem(410, "RESULT_EXPIRED"), errors.ResultExpired),
        (problem(418, "SOMETHING_NEW"), errors.RequestError),
        (problem(500, "INTERNAL"), errors.EnginehouseError),
        (httpx2.Response(404, text="not ours"), errors.RequestError),
        (httpx2.Response(302, headers={"location": "/login", "content-type": "text/html"}), errors.RequestError),
        (httpx2.Response(200, html="<p>Please log in to this network.</p>"), CannotConnect),
    ],
)
def test_a_refusal_becomes_its_exception_and_is_not_sent_again(
    connect: Connect, answer: httpx2.Response, kind: type[Exception]
) -> None:
    client, server = connect(answer)
    with pytest.raises(errors.EnginehouseError) as caught:
        client.submit("ocr", 1)
    assert type(caught.value) is kind
    assert len(server.requests) == 1
    if "json" in answer.headers["content-type"]:
        assert caught.value.code == answer.json()["code"]
        assert (str(caught.value), caught.value.advice) == ("what was wrong", "do this")


def test_a_server_that_asks_for_too_much_patience_gets_none(connect: Connect) -> None:
    client, server = connect(problem(429, "QUEUE_FULL", {"retry-after": "3600"}))
    with pytest.raises(errors.QueueFull) as caught:
        client.submit("ocr", 1)
    assert caught.value.retry_after_seconds == 3600
    assert len(server.requests) == 1


def test_giving_up_says_that_nothing_answers(connect: Connect) -> None:
    client, server = connect(*[httpx2.ConnectError("refused")] * 4)
    with pytest.raises(CannotConnect, match="http://gate"):
        client.engines()
    assert len(server.requests) == 4


@pytest.mark.parametrize("call", ["retry", "redrive"])
@pytest.mark.parametrize("key", [None, "mine"])
def test_a_retry_or_redrive_is_repeated_under_one_key_so_that_it_makes_one_job(
    connect: Connect, call: str, key: str | None
) -> None:
    client, server = connect(httpx2.ReadError("reset"), accepted())
    assert getattr(client, call)(JOB, idempotency_key=key).id == JOB
    first, second = (request.headers["idempotency-key"] for request in server.requests)
    assert first == second
    assert key in (None, first)


def test_an_idempotency_key_is_sent_as_utf8_or_refused_before_anything_is_sent(connect: Connect) -> None:
    client, server = connect(accepted(), accepted())
    client.submit("ocr", 1, idempotency_key="schlüssel")
    client.retry(JOB, idempotency_key="ключ")
    sent = [dict(request.headers.raw)[b"idempotency-key"].decode() for request in server.requests]
    assert sent == ["schlüssel", "ключ"]
    for wrong in ("\ud800", "a\nb", "a\x00"):
        with pytest.raises(errors.InvalidHeader, match="idempotency_key"):
            client.submit("ocr", 1, idempotency_key=wrong)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"text": "\ud800"}, r"input.text: JSON cannot hold a lone surrogate (\ud800)"),
        ({"\ud800": 1}, r"input: JSON cannot hold a lone surrogate in the name '\ud800'"),
        ({"boxes": [1, {"score": math.nan}]}, "input.boxes[1].score: JSON cannot hold NaN"),
        ([math.inf], "input[0]: JSON cannot hold Infinity"),
        ([b"\xff"], "input[0]: JSON cannot hold a value of the type bytes"),
        ({"x": object()}, "input.x: JSON cannot hold a value of the type object"),
    ],
)
def test_an_input_that_cannot_be_json_is_named_before_anything_is_sent(connect: Connect, value: Any, says: str) -> None:
    client, server = connect()
    for call in (
        lambda: client.submit("ocr", value),
        lambda: client.submit_batch([{"engine": "ocr", "input": value}]),
    ):
        with pytest.raises(errors.NotJson) as caught:
            call()
        assert says in str(caught.value).replace("jobs[0].", "")
    assert not server.requests


def test_names_cannot_leave_their_part_of_the_path(connect: Connect) -> None:
    client, server = connect(problem(404, "ENGINE_DOES_NOT_EXIST"))
    with pytest.raises(errors.EngineDoesNotExist):
        client.engine("../jobs?x=1")
    assert server.requests[0].url.raw_path == b"/v1/engines/..%2Fjobs%3Fx%3D1"


def test_url_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEHOUSE_URL", "http://elsewhere:1/")
    with Client() as client:
        assert client.url == "http://elsewhere:1"


def test_every_error_of_a_call_can_be_imported_from_the_client() -> None:
    kinds = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    assert {*kinds, "CannotConnect", "JobFailed", "NoHome", "WaitOver"} <= set(client_package.__all__)
    found = [getattr(client_package, name) for name in client_package.__all__]
    assert all(issubclass(kind, errors.EnginehouseError) for kind in found if issubclass(kind, Exception))


async def test_the_async_client_does_the_same() -> None:
    server = Server(httpx2.ConnectError("refused"), job("running"), job(output=1))
    transport = httpx2.MockTransport(server)
    async with AsyncClient("http://gate", "secret", retries=QUICK, transport=transport) as client:
        assert await client.run("ocr", 1) == 1
    assert len(server.requests) == 3


def test_the_sync_client_is_what_the_async_one_derives_to() -> None:
    for source, target in derive_sync.DERIVED.items():
        assert target.read_text() == derive_sync.derive(source), target.name


def test_every_option_of_the_api_can_be_given() -> None:
    assert set(SubmitOptions.__annotations__) == set(JobOptions.model_fields) | {"input_ref"}
    assert set(JobRequest.model_fields) - set(JobOptions.model_fields) == {"input", "input_ref"}
