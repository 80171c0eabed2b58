"""A completion that came in chunks is the one that would have come at once, and its text is shown as it comes."""

import contextlib
import json
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.servers import SPOKEN, StandIn, spec_of

from enginehouse.checkers import Checkers
from enginehouse.contracts.job import JobErrorCode
from enginehouse.runner.clients.base import Closed, Prediction, Reply
from enginehouse.runner.clients.choose import engine_client
from enginehouse.runner.clients.completion import Completion, NotAChunk
from enginehouse.runner.clients.wire import Limits, TooLarge
from enginehouse.runner.outcome import Failed, Rejected, Succeeded


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def completed(*chunks: Any, max_bytes: int = 100_000) -> tuple[dict[str, Any], list[Any]]:
    shown: list[Any] = []
    whole = Completion(lambda line: shown.append(line["output"]), max_bytes)
    for part in chunks:
        whole.add(part)
    return whole.finish(), shown


def test_a_chat_is_put_together() -> None:
    usage = {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": {"total_tokens": 7}}
    whole, shown = completed(
        chunk(role="assistant", content=None), chunk(content="Hel"), chunk(content="lo"), chunk(finish="stop"), usage
    )
    assert whole == {
        "id": "c1",
        "object": "chat.completion",
        "model": "m",
        "usage": {"total_tokens": 7},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
    }
    assert "".join(event["text"] for event in shown) == "Hello"
    assert {event["index"] for event in shown} == {0}


def test_a_completion_of_a_prompt_is_put_together() -> None:
    parts: list[dict[str, Any]] = [
        {"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": end}]}
        for text, end in (("a", None), ("b", None), ("", "length"))
    ]
    whole, shown = completed(*parts)
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [{"index": 0, "text": "ab", "finish_reason": "length"}]
    assert "".join(event["text"] for event in shown) == "ab"


def test_choices_and_tool_calls_are_told_apart_by_their_index() -> None:
    def call(index: int, **rest: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, **rest}]}

    whole, _ = completed(
        chunk(1, content="second"),
        chunk(0, **call(0, id="t0", type="function", function={"name": "look", "arguments": '{"x"'})),
        chunk(0, **call(1, id="t1", type="function", function={"name": "up", "arguments": "{}"})),
        chunk(0, **call(0, function={"arguments": ": 1}"})),
    )
    first, second = whole["choices"]
    assert second["message"]["content"] == "second"
    assert [one["function"] for one in first["message"]["tool_calls"]] == [
        {"name": "look", "arguments": '{"x": 1}'},
        {"name": "up", "arguments": "{}"},
    ]
    assert [one["id"] for one in first["message"]["tool_calls"]] == ["t0", "t1"]


def test_probabilities_of_tokens_are_kept_in_order() -> None:
    def scored(token: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"content": token}, "logprobs": {"content": [{"token": token}]}}]}

    whole, _ = completed(scored("a"), scored("b"))
    assert whole["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


def test_text_of_a_moment_shares_an_event_that_is_small_enough() -> None:
    _, shown = completed(*(chunk(content="x" * 10) for _ in range(1_000)))
    assert len("".join(event["text"] for event in shown)) == 10_000
    assert len(shown) < 200
    assert max(len(event["text"]) for event in shown) <= 1_000


def test_what_is_no_chunk_is_refused() -> None:
    refused: list[Any] = [[], {"choices": 1}, {"choices": [1]}, {"choices": [{"delta": "x"}]}]
    for wrong in refused:
        with pytest.raises(NotAChunk):
            completed(wrong)
    with pytest.raises(NotAChunk, match="now a list and then none"):
        completed(chunk(a=[1]), chunk(a={"b": 1}))
    with pytest.raises(NotAChunk, match="more than 4096 parts"):
        completed(*({"choices": [{"index": index}]} for index in range(5_000)))
    with pytest.raises(NotAChunk, match="more than 64 keys"):
        completed({str(key): 1 for key in range(65)})
    with pytest.raises(TooLarge):
        completed(chunk(content="x" * 1_000), chunk(content="x" * 1_000), max_bytes=1_500)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["index", "delta", "content", "text", "tool_calls", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(st.lists(st.fixed_dictionaries({"choices": st.lists(_JSON, max_size=3)}, optional={"usage": _JSON}), max_size=4))
def test_no_chunk_can_do_more_than_be_refused(chunks: list[Any]) -> None:
    with contextlib.suppress(NotAChunk):
        json.dumps(completed(*chunks)[0])


async def streamed(*lines: str, close: bool = False, **changes: Any) -> tuple[Reply, StandIn, list[Any]]:
    """Let a server answer with these lines of a stream; return the reply, the server and what was shown."""
    server = StandIn(SPOKEN["openai"])

    async def do(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await response.write("".join(f"{line}\r\n\r\n" for line in lines).encode())
        if close:
            assert request.transport
            request.transport.close()
        return response

    server._do = do  # type: ignore[method-assign]
    await server.start()
    limits = Limits(predict_max_bytes=512 * 1024, output_max_bytes=64 * 1024)
    client = engine_client(spec_of(server.spoken), server.url, Checkers(), limits, count_jobs=lambda _: None)
    shown: list[Any] = []
    try:
        body = {**server.spoken.input, "stream": True, **changes}
        reply = await client.predict(Prediction("j1", body, parameters={"top_p": 0.5}, on_line=shown.append))
    finally:
        await client.close()
        await server.stop()
    return reply, server, shown


def data(value: Any) -> str:
    return f"data: {json.dumps(value)}"


async def test_a_stream_ends_in_the_whole_completion() -> None:
    lines = [": a comment", "event: chunk", data(chunk(content="Hi")), data(chunk(finish="stop")), "data: [DONE]"]
    reply, server, shown = await streamed(*lines)
    assert isinstance(reply, Succeeded), reply
    assert reply.output["choices"][0]["message"]["content"] == "Hi"
    assert shown == [{"output": {"index": 0, "text": "Hi"}}]
    (body,) = server.bodies
    assert (body["model"], body["top_p"], body["stream_options"]) == ("m", 0.5, {"include_usage": True})


async def test_what_the_input_says_itself_wins() -> None:
    _, server, _ = await streamed("data: [DONE]", model="other", top_p=1, stream_options={"include_usage": False})
    (body,) = server.bodies
    assert (body["model"], body["top_p"], body["stream_options"]) == ("other", 1, {"include_usage": False})


async def test_a_stream_without_its_last_line_is_whole_if_every_choice_has_ended() -> None:
    reply, _, _ = await streamed(data(chunk(content="Hi", finish="stop")))
    assert isinstance(reply, Succeeded), reply
    reply, _, _ = await streamed(data(chunk(content="Hi")))
    assert isinstance(reply, Failed)
    assert (reply.code, reply.retryable) == (JobErrorCode.MALFORMED_ANSWER, False)
    assert "ended before" in reply.message


async def test_a_stream_that_breaks_is_tried_again() -> None:
    reply, _, _ = await streamed(data(chunk(content="Hi")), close=True)
    assert isinstance(reply, Closed)


async def test_an_error_in_a_stream_is_the_inputs_if_its_code_says_so() -> None:
    reply, _, _ = await streamed(data({"error": {"code": 400, "message": "too long"}}))
    assert reply == Rejected("too long")
    reply, _, _ = await streamed(data({"error": {"code": 500, "message": "no memory"}}))
    assert reply == Failed("no memory")


@pytest.mark.parametrize(
    "lines",
    [
        ["data: {"],
        ["data: [1]"],
        ["data: " + "x" * 70_000],
        [data(chunk(content="x" * 50_000))] * 20,
    ],
)
async def test_a_stream_of_no_use_is_final(lines: list[str]) -> None:
    reply, _, _ = await streamed(*lines)
    assert isinstance(reply, Failed)
    assert not reply.retryable


async def test_a_completion_larger_than_a_result_is_too_large() -> None:
    lines = [data(chunk(content="x" * 40_000)), data(chunk(content="x" * 40_000)), "data: [DONE]"]
    reply, _, _ = await streamed(*lines)
    assert isinstance(reply, Failed)
    assert reply.code is JobErrorCode.OUTPUT_TOO_LARGE
