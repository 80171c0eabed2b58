"""The client: what it sends, when it sends it again, and what it makes of each answer."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support import derive_sync

from enginehouse.client import AsyncClient, CannotConnect, Client, Handle, JobFailed, SubmitOptions, WaitOver
from enginehouse.client.retries import RetryPlan
from enginehouse.contracts import errors
from enginehouse.contracts.job import JobOptions, JobRequest

JOB = "01890a5d-ac96-7b2a-8c4e-0123456789ab"
QUICK = RetryPlan(times=3, longest_retry_after_seconds=0.05)
Answer = httpx2.Response | Exception


def job(status: str = "succeeded", **fields: Any) -> httpx2.Response:
    body = {
        "id": JOB,
        "engine": "acme--ocr",
        "status": status,
        "created_at": "2026-11-22T10:00:00Z",
        "urls": {},
        **fields,
    }
    return httpx2.Response(200, json=body)


def accepted() -> httpx2.Response:
    return httpx2.Response(202, json={"id": JOB, "engine": "acme--ocr", "status": "queued", "urls": {}})


def problem(status: int, code: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    body = {"status": status, "code": code, "detail": "what was wrong", "retryable": False, "advice": "do this"}
    return httpx2.Response(status, json=body, headers=headers)


class Server:
    """Gives the planned answers, one after the other, and keeps what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[httpx2.Request] = []
        self._answers = list(answers)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def keys(self) -> list[str]:
        return [request.headers["idempotency-key"] for request in self.requests]


Connect = Callable[..., tuple[Client, Server]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients: list[Client] = []

    def make(*answers: Answer, retries: RetryPlan = QUICK) -> tuple[Client, Server]:
        server = Server(*answers)
        client = Client("http://gate/", "secret", retries=retries, transport=httpx2.MockTransport(server))
        clients.append(client)
        return client, server

    yield make
    for client in clients:
        client.close()


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


def test_a_retry_of_a_job_is_not_sent_twice_for_a_lost_answer(connect: Connect) -> None:
    client, server = connect(httpx2.ReadError("reset"))
    with pytest.raises(errors.Unavailable):
        client.retry(JOB)
    assert len(server.requests) == 1


def test_run_asks_to_wait_and_takes_the_result_of_a_quick_job_at_once(connect: Connect) -> None:
    client, server = connect(job(output={"text": None}))
    assert client.run("ocr", 1) == {"text": None}
    (request,) = server.requests
    assert request.headers["prefer"] == "wait=60.000"
    assert request.extensions["timeout"]["read"] > 60


def test_run_waits_on_for_a_slow_job(connect: Connect) -> None:
    client, server = connect(job("running"), job("running"), job(output=5))
    assert client.run("ocr", 1, timeout_seconds=100) == 5
    waits = [float(request.url.params["wait"]) for request in server.requests[1:]]
    assert all(0 < wait <= 60 for wait in waits)
    for request, wait in zip(server.requests[1:], waits, strict=True):
        assert request.extensions["timeout"]["read"] > wait


def test_waiting_ends_when_its_time_is_over(connect: Connect) -> None:
    client, _ = connect(accepted(), job("running"))
    handle = client.submit("ocr", 1)
    with pytest.raises(TimeoutError) as caught:
        handle.result(timeout_seconds=0)
    assert isinstance(caught.value, WaitOver)


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (job("failed", error={"code": "PREDICT_ERROR", "message": "it broke"}), "PREDICT_ERROR"),
        (job("canceled"), "CANCELED"),
        (job("expired", error={"code": "EXPIRED", "message": "too late"}), "EXPIRED"),
    ],
)
def test_a_job_without_a_result_raises_its_reason(connect: Connect, ended: httpx2.Response, code: str) -> None:
    client, _ = connect(ended)
    with pytest.raises(JobFailed) as caught:
        client.run("ocr", 1)
    assert caught.value.code == code
    assert caught.value.job.id == JOB


def test_a_handle_that_saw_the_end_asks_no_more(connect: Connect) -> None:
    client, server = connect(accepted(), job(output=1))
    handle = client.submit("ocr", 1)
    assert [handle.result(), handle.result(), handle.wait().output] == [1, 1, 1]
    assert len(server.requests) == 2


def test_cancelling_what_is_canceled_is_fine_and_what_succeeded_is_not(connect: Connect) -> None:
    client, _ = connect(problem(409, "JOB_IS_FINAL"), job("canceled"), problem(409, "JOB_IS_FINAL"), job())
    assert client.cancel(JOB).status == "canceled"
    with pytest.raises(errors.JobIsFinal):
        client.cancel(JOB)


def test_jobs_follows_the_pages_up_to_the_limit(connect: Connect) -> None:
    item = job().json()
    pages = [{"jobs": [item] * 200, "next_cursor": JOB}, {"jobs": [item] * 50, "next_cursor": JOB}]
    client, server = connect(*(httpx2.Response(200, json=page) for page in pages))
    assert len(list(client.jobs(engine="ocr", status="failed", limit=250))) == 250
    assert dict(server.requests[1].url.params) == {"engine": "ocr", "status": "failed", "cursor": JOB, "limit": "50"}


def test_names_cannot_leave_their_part_of_the_path(connect: Connect) -> None:
    client, server = connect(problem(404, "ENGINE_DOES_NOT_EXIST"))
    with pytest.raises(errors.EngineDoesNotExist):
        client.engine("../jobs?x=1")
    assert server.requests[0].url.raw_path == b"/v1/engines/..%2Fjobs%3Fx%3D1"


def test_url_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEHOUSE_URL", "http://elsewhere:1/")
    with Client() as client:
        assert client.url == "http://elsewhere:1"


def test_a_large_output_is_fetched_without_our_key(connect: Connect) -> None:
    large = httpx2.Response(200, json=[1, None])
    client, server = connect(job(output_url="http://store/x?signature=1"), httpx2.ReadError("reset"), large)
    assert client.run("ocr", 1) == [1, None]
    assert [str(request.url) for request in server.requests[1:]] == ["http://store/x?signature=1"] * 2
    assert not any("authorization" in request.headers for request in server.requests[1:])


def test_a_path_as_text_is_not_uploaded_as_if_it_were_the_content(connect: Connect) -> None:
    client, server = connect()
    with pytest.raises(TypeError, match="Path"):
        client.upload("/a/page.png")  # type: ignore[arg-type]
    assert not server.requests


def test_an_upload_is_put_where_the_server_says_and_named_by_its_key(connect: Connect, tmp_path: Path) -> None:
    place = httpx2.Response(201, json={"key": "acme/uploads/1.json", "url": "http://store/put?signature=1"})
    client, server = connect(place, httpx2.ConnectError("refused"), httpx2.Response(201))
    (tmp_path / "input.json").write_bytes(b'{"a": 1}')
    assert client.upload(tmp_path / "input.json") == "acme/uploads/1.json"
    asked, _, put = server.requests
    assert json.loads(asked.content) == {"content_type": "application/json"}
    assert (put.method, str(put.url), put.content) == ("PUT", "http://store/put?signature=1", b'{"a": 1}')
    assert "authorization" not in put.headers


def test_a_batch_gives_a_handle_or_a_reason_for_each_and_goes_in_parts(connect: Connect) -> None:
    ok = {"id": JOB, "engine": "acme--ocr", "status": "queued", "urls": {}}
    refused = {"problem": {"status": 404, "code": "ENGINE_DOES_NOT_EXIST", "detail": "no", "retryable": False}}
    parts = [{"jobs": [ok, refused] * 500}, {"jobs": [ok] * 5}]
    client, server = connect(*(httpx2.Response(202, json=part) for part in parts))
    answers = client.submit_batch([{"engine": "ocr", "input": n, "priority": 1} for n in range(1_005)])
    assert len(answers) == 1_005
    assert isinstance(answers[0], Handle)
    assert isinstance(answers[1], errors.EngineDoesNotExist)
    assert [len(json.loads(request.content)["jobs"]) for request in server.requests] == [1_000, 5]
    assert json.loads(server.requests[1].content)["jobs"][0] == {"engine": "ocr", "input": 1_000, "priority": 1}
    assert len(set(server.keys)) == 2


def stream(*events: tuple[int, str, Any]) -> httpx2.Response:
    text = "".join(f": here\n\nid: {n}\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for n, kind, data in events)
    return httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})


def test_events_go_on_after_the_last_one_when_the_connection_breaks(connect: Connect) -> None:
    end = job(output=1).json()
    client, server = connect(
        accepted(),
        httpx2.ConnectError("refused"),
        stream((1, "start", {}), (2, "log", "a")),
        problem(503, "UNAVAILABLE"),
        stream((3, "output", {"b": None}), (9, "completed", end)),
    )
    handle = client.submit("ocr", 1)
    assert [(news.kind, news.data) for news in handle.events()] == [
        ("start", {}),
        ("log", "a"),
        ("output", {"b": None}),
        ("completed", end),
    ]
    assert [request.headers.get("last-event-id") for request in server.requests[1:]] == [None, None, "2", "2"]
    assert handle.result() == 1
    assert len(server.requests) == 5


def test_events_of_an_unknown_job_are_refused(connect: Connect) -> None:
    client, server = connect(problem(404, "JOB_DOES_NOT_EXIST"))
    with pytest.raises(errors.JobDoesNotExist):
        list(client.events(JOB))
    assert len(server.requests) == 1


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


@pytest.mark.parametrize("call", ["redrive", "discard", "purge"])
def test_what_would_be_done_twice_is_not_sent_again_for_a_lost_answer(connect: Connect, call: str) -> None:
    client, server = connect(httpx2.ReadError("reset"))
    with pytest.raises(errors.Unavailable):
        getattr(client, call)(JOB)
    assert len(server.requests) == 1


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
