"""The answers that an engine may give to /predict, and the records that they lead to."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from tests.support.break_ins import attempt
from tests.support.runner import World, runner_world

from enginehouse.contracts import names
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.runner.clients.answers import bounded, message_of, read_refusal, read_result
from enginehouse.runner.clients.base import Busy
from enginehouse.runner.outcome import Failed, Rejected, Succeeded


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


def answering(  # type: ignore[no-untyped-def]
    body: bytes, status: int = 200, content_type: str = "application/json", headers: dict[str, str] | None = None
):
    async def predict(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"Content-Type": content_type, **(headers or {})})

    return predict


def error_of(record: JobRecord) -> tuple[str, str]:
    assert record.error is not None
    return record.error.code, record.error.message


async def test_a_result_is_the_record(world: World) -> None:
    record = await world.run({"text": "good", "none": None, "n": [1, 2.5]})
    assert record.status is Status.SUCCEEDED
    assert record.output == {"text": "good", "none": None, "n": [1, 2.5]}
    assert record.attempt == 1
    assert record.worker == "worker-1"
    assert record.predict_time is not None
    assert record.predict_time < 5
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.started_at <= record.finished_at


async def test_the_engine_sees_id_data_parameters_and_nothing_of_ours(world: World) -> None:
    await world.run("x", parameters={"top_k": 3})
    (call,) = world.engine.calls
    assert call["data"] == "x"
    assert call["parameters"] == {"top_k": 3}
    assert set(call) == {"data", "id", "parameters"}
    assert not [name for name in world.engine.headers[0] if "dapr" in name.lower() or "token" in name.lower()]


@attempt("answers nonsense instead of a result", layer="the runner reads one form of answer")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "not JSON"),
        (b"", "empty"),
        (b'{"answer": 1}', 'without "result"'),
        (b"[1]", 'without "result"'),
        (b'{"result": NaN}', "not JSON"),
        (b'{"result": [1e400]}', "too large for JSON"),
        (b'{"result": {"n": [1, ' + b"9" * 400 + b"]}}", "result.n[1]: JSON cannot hold an integer this large"),
        (b'{"result": ' + b"[" * 500 + b"]" * 500 + b"}", "not JSON"),
        (b'{"result": "\\ud800"}', "not JSON"),
        (b'{"result": 1', "not JSON"),
        (b'{"result": ' + b"[" * 151 + b"1" + b"]" * 151 + b"}", "nested deeper than 150 levels"),
    ],
)
async def test_nonsense_fails_with_its_reason_and_is_not_tried_again(world: World, body: bytes, said: str) -> None:
    world.engine.predict = answering(body)
    record = await world.run()
    assert record.status is Status.FAILED
    assert record.dead_lettered
    code, message = error_of(record)
    assert code == "MALFORMED_ANSWER"
    assert said in message


@pytest.mark.parametrize("status", [200, 500])
async def test_a_result_that_the_engine_itself_says_is_of_no_use_is_not_tried_again(world: World, status: int) -> None:
    error = '{"message": "result.boxes[3].score: nan", "retryable": false, "code": "MALFORMED_ANSWER"}'
    world.engine.predict = answering(b'{"error": %b}\n' % error.encode(), status, "application/x-ndjson")
    record = await world.run()
    assert (record.status, record.attempt, record.dead_lettered) == (Status.FAILED, 1, True)
    assert error_of(record) == (
        "MALFORMED_ANSWER",
        "the engine's answer cannot be used: result.boxes[3].score: nan",
    )


async def test_a_failure_that_the_engine_says_is_final_is_not_tried_again(world: World) -> None:
    world.engine.predict = answering(b'{"error": {"message": "no weights", "retryable": false}}', 500)
    record = await world.run()
    assert (record.status, record.attempt) == (Status.FAILED, 1)
    assert error_of(record) == ("PREDICT_ERROR", "the engine answered 500: no weights")


@pytest.mark.parametrize("status", [500, 502, 504])
@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b"", b"\xff", b"[1]", b'{"error": "down"}'])
async def test_an_answer_of_something_between_us_and_the_engine_is_tried_again(
    world: World, status: int, body: bytes
) -> None:
    world.engine.predict = answering(body, status, "text/html")
    record = await world.run()
    assert (record.status, record.attempt) == (Status.QUEUED, 1)
    assert record.retry_at is not None


@attempt("redirects its runner inside", layer="the runner follows no redirect")
async def test_a_redirect_is_not_followed(world: World) -> None:
    world.engine.predict = answering(b"", 302, headers={"Location": f"{world.engine.url}/healthz"})
    code, message = error_of(await world.run())
    assert code == "MALFORMED_ANSWER"
    assert "302" in message


@attempt("answers 1 GB and says so", layer="bounded answers")
async def test_an_answer_that_says_its_size_is_not_read(world: World) -> None:
    world.engine.predict = answering(b'{"result": "' + b"x" * 50_000_000 + b'"}')
    code, message = error_of(await world.run())
    assert code == "OUTPUT_TOO_LARGE"
    assert "50000014 bytes" in message
    assert "at most 1048576" in message


@attempt("answers without end", layer="bounded answers")
async def test_an_endless_answer_is_cut_off(world: World) -> None:
    sent = 0

    async def predict(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)
            sent += 65536

    world.engine.predict = predict
    code, message = error_of(await world.run())
    assert code == "OUTPUT_TOO_LARGE"
    assert "more than 8388608 bytes" in message
    assert sent < 30_000_000


async def test_an_answer_above_the_limit_for_outputs(world: World) -> None:
    world.engine.predict = answering(b'{"result": "' + b"x" * 1_100_000 + b'"}')
    assert error_of(await world.run())[0] == "OUTPUT_TOO_LARGE"


@attempt("answers with a decompression bomb", layer="the runner unpacks nothing")
async def test_packed_answers_are_not_unpacked(world: World) -> None:
    world.engine.predict = answering(gzip.compress(b'{"result": "unpacked"}'), headers={"Content-Encoding": "gzip"})
    assert error_of(await world.run())[0] == "MALFORMED_ANSWER"
    assert world.engine.headers[0]["Accept-Encoding"] == "identity"


@attempt("answers with another job's id", layer="an answer is of the job that was asked")
async def test_an_id_in_an_answer_says_nothing(world: World) -> None:
    own, other = names.new_job_id(), names.new_job_id()
    answer = {"id": other, "job_id": other, "ids": [other], "result": 1}
    world.engine.predict = answering(json.dumps(answer).encode())
    assert await world.runner.receiver.deliver(world.event(own))
    assert (world.record(own).status, world.record(own).output) == (Status.SUCCEEDED, 1)
    assert world.find(other) is None


@attempt("leaves a cookie for the jobs of others", layer="the runner keeps no cookies")
async def test_cookies_are_not_kept(world: World) -> None:
    world.engine.predict = answering(b'{"result": 1}', headers={"Set-Cookie": "a=b"})
    await world.run()
    await world.run()
    assert all("Cookie" not in headers for headers in world.engine.headers)


@attempt("answers what is no HTTP", layer="the runner's client is strict")
async def test_what_is_no_http_is_malformed(world: World) -> None:
    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 garbage\r\n\r\n")
        await writer.drain()
        writer.close()

    await world.engine.stop()
    server = await asyncio.start_server(garbage, "127.0.0.1", world.engine.port)
    async with server:
        assert error_of(await world.run())[0] == "MALFORMED_ANSWER"


@attempt("answers text that no database can hold", layer="cleaned text")
@pytest.mark.parametrize(("status", "code"), [(422, "INVALID_INPUT"), (500, "PREDICT_ERROR")])
async def test_an_error_whose_text_holds_a_lone_surrogate_keeps_its_code(world: World, status: int, code: str) -> None:
    world.engine.predict = answering(b'{"error": {"message": "bad: \\ud83d"}}', status)
    found, message = error_of(await world.run(retry={"max_attempts": 1}))
    assert found == code
    assert message.endswith("bad:")


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_rejected_input_fails_with_the_engines_own_words(world: World, status: int) -> None:
    world.engine.predict = answering(b'{"error": {"message": "no face in this picture"}}', status)
    record = await world.run()
    assert record.status is Status.FAILED
    assert not record.dead_lettered
    assert error_of(record) == ("INVALID_INPUT", "no face in this picture")


@pytest.mark.parametrize("status", [500, 502, 504, 408])
async def test_a_failure_is_scheduled_again(world: World, status: int) -> None:
    world.engine.predict = answering(b'{"detail": "out of memory"}', status)
    record = await world.run()
    assert record.status is Status.QUEUED
    assert record.attempt == 1
    assert error_of(record) == ("PREDICT_ERROR", f"the engine answered {status}: out of memory")


async def test_a_stream_ends_in_its_result(world: World) -> None:
    lines = b'{"progress": 0.5}\n{"log": "the \\"result\\""}\n{"metric": {"result": 2}}\n{"result": {"a": 1}}\n'
    world.engine.predict = answering(lines, content_type="application/x-ndjson")
    assert (await world.run()).output == {"a": 1}


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (b'{"progress": 1}\n', "MALFORMED_ANSWER"),
        (b'{"error": "it broke"}\n', "PREDICT_ERROR"),
        (b'{"result": NaN}\n', "MALFORMED_ANSWER"),
        (b"x" * 9_000_000, "OUTPUT_TOO_LARGE"),
    ],
)
async def test_a_stream_that_ends_otherwise(world: World, lines: bytes, code: str) -> None:
    world.engine.predict = answering(lines, content_type="application/x-ndjson; charset=utf-8")
    assert error_of(await world.run())[0] == code


def test_messages_are_sentences_and_never_traces() -> None:
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no such label'
    assert message_of(trace.encode()) == "ValueError: no such label"
    assert message_of(b'{"detail": [{"loc": ["body", "data", "text"], "msg": "Field required"}]}') == (
        "data.text: Field required"
    )
    assert message_of(b"<!doctype html><p>Internal Server Error") == ""
    assert message_of(b'{"message": "a\\u0000b"}') == "a b"
    assert len(message_of(b"x" * 10_000)) == 2_000
    assert message_of(b"\xff\xfe") != ""
    assert message_of(b'{"detail": {"deep": {"deeper": 1}}}') == ""


def test_bounded_keeps_what_fits() -> None:
    assert bounded("abc", 3) == "abc"
    assert bounded("abcd", 3) == "ab…"


@pytest.mark.parametrize(
    ("header", "seconds"), [("2", 2), (None, 1), ("soon", 1), ("-5", 0.05), ("1e9", 60), ("nan", 1)]
)
def test_busy_is_bounded(header: str | None, seconds: float) -> None:
    assert read_refusal(503, header, b"") == Busy(seconds)


def test_large_but_finite_numbers_pass() -> None:
    assert isinstance(read_result(b'{"result": [1e100, 1.5e+22, ' + b"9" * 300 + b"]}", 10_000), Succeeded)


def test_a_rejection_without_words_says_its_status() -> None:
    assert read_refusal(404, None, b"") == Rejected("the engine refused the input with status 404")
    assert read_refusal(500, None, b"") == Failed("the engine answered 500")
