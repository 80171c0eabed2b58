"""The client follows jobs: waiting, results, lists, batches, large inputs and outputs, events."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.client import JOB, Connect, accepted, connections, job, problem

from enginehouse.client import Handle, JobFailed, WaitOver
from enginehouse.contracts import errors


@pytest.fixture
def connect() -> Iterator[Connect]:
    with connections() as make:
        yield make


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
