"""Random schemas, cards, heartbeats and answers of engines: the gateway and the runner bear them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tests.support.break_ins import Noted, attempt
from tests.support.fuzz_values import encoded, objects, schemas, texts, values
from tests.support.fuzzing import fuzz
from tests.support.gateway import ECHO, GatewayWorld, gateway_world, show_card
from tests.support.raw_engine import RawEngine
from tests.support.runner import STORE, World, runner_world
from tests.support.scripted_runner import succeed

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.job import Status
from enginehouse.runner.card import build_card
from enginehouse.runner.schema import described_by

_STORE = names.results_component(ECHO)
_AT_ONCE = 50


@attempt("shows random schemas", layer="bounded schemas, checked elsewhere")
def test_any_schema_on_a_card(tmp_path: Path, note: Noted) -> None:
    async def check(world: GatewayWorld, examples: Sequence[tuple[dict[str, Any], list[Any]]]) -> None:
        world.runner.answer = succeed
        for schema, inputs in examples:
            await show_card(world.dapr, ECHO, input_schema=schema)
            await world.gateway.catalogue.read_card(ECHO)
            for value in inputs:
                answer = await world.client().post("/v1/engines/echo/jobs", json={"input": value})
                assert answer.status_code in (202, 422), answer.text

    inputs = st.lists(values | st.text("ab", max_size=2_000), max_size=3)
    note(fuzz(lambda: gateway_world(tmp_path), st.tuples(schemas, inputs), check))


@attempt("describes itself at random", layer="a bounded card")
def test_any_description_of_an_engine(tmp_path: Path, note: Noted) -> None:
    spec = EngineSpec(tenant="acme", name="echo")

    async def check(_: GatewayWorld, examples: Sequence[tuple[dict[str, Any], dict[str, Any], Any]]) -> None:
        for schema, components, noise in examples:
            body = {"application/json": {"schema": {"properties": {"data": schema}}}}
            operation = {"requestBody": {"content": body}, "responses": {"200": {"content": body}}}
            described = {"paths": {"/predict": {"post": operation}}, "components": {"schemas": components}, "x": noise}
            for openapi in (described, noise if isinstance(noise, dict) else {}):
                assert len(build_card(spec, "a", described_by(openapi), "").model_dump_json()) <= 2 * 64 * 1024
                await asyncio.sleep(0)

    components = st.dictionaries(st.sampled_from(["a", "b", "c"]), schemas, max_size=3)
    note(fuzz(lambda: gateway_world(tmp_path), st.tuples(schemas, components, values), check))


_CARD = ["engine", "slot", "version", "input_schema", "example", "concurrency", "execution_timeout_seconds", "max_queued_jobs", "retry", "batch", "openapi"]  # fmt: skip
_BEAT = ["worker", "slot", "version", "concurrency", "in_hand", "idle_since", "healthy", "subscribed", "warning", "problem", "at"]  # fmt: skip
_WHOLE_BEAT = {"worker": "w", "slot": "a", "version": "v1", "concurrency": 2, "healthy": True, "subscribed": True, "at": "2026-01-01T00:00:00Z"}  # fmt: skip
_WHOLE_CARD = {"engine": ECHO, "slot": "a", "version": "v1"}


def _with(whole: dict[str, Any], known: list[str]) -> st.SearchStrategy[bytes]:
    begun = json.dumps(whole)[:-1]
    return encoded(objects(known).map(lambda text: begun + ("," + text[1:] if text != "{}" else "}")) | texts)


_STORED = st.fixed_dictionaries(
    {},
    optional={
        "card/a": _with(_WHOLE_CARD, _CARD),
        "card/b": st.binary(max_size=200),
        "workers": st.sampled_from([b'{"workers":["w"]}', b'{"workers":["../card/a","w","w"]}']) | encoded(texts),
        "worker/w": _with(_WHOLE_BEAT, _BEAT),
        "control": encoded(objects(["stopped"])),
    },
)


@attempt("writes random cards, heartbeats and lists of workers", layer="read as what they are, or not at all")
def test_any_card_and_any_heartbeat(tmp_path: Path, note: Noted) -> None:
    async def check(world: GatewayWorld, examples: Sequence[dict[str, bytes]]) -> None:
        for stored in examples:
            for key, value in stored.items():
                await world.sidecar.put(_STORE, key, value)
            await world.gateway.catalogue.read_card(ECHO)
            for path in ("/v1/engines", "/v1/engines/echo"):
                answer = await world.client().get(path)
                assert answer.status_code == 200, answer.text
            answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1})
            assert answer.status_code in (202, 422, 429), answer.text

    note(fuzz(lambda: gateway_world(tmp_path), _STORED, check))


_LINES = st.lists(encoded(objects(["progress", "output", "log", "metric", "result", "error"]) | texts), max_size=6)
_HEADS = st.tuples(
    st.sampled_from([*[200] * 20, 201, 204, 302, 400, 404, 422, 429, 500, 503]),
    st.sampled_from(["application/json", "application/x-ndjson", "text/html", "application/json; charset=utf-16", ""]),
    st.dictionaries(
        st.sampled_from(
            ["Retry-After", "X-Engine-Warning", "Content-Encoding", "Location", "Set-Cookie", "Connection"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=50)
        | st.sampled_from(["1e400", "-1", "nan", "99999999999", "gzip"]),
        max_size=3,
    ),
).map(
    lambda head: "\r\n".join(
        [f"HTTP/1.1 {head[0]} As", f"Content-Type: {head[1]}", *(f"{name}: {value}" for name, value in head[2].items())]
    ).encode("latin-1")
)
_OTHERS_ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"result": "me"}'
Answer = tuple[bytes, bytes, str, bytes]
"""Head without the size of the body, body, how the size is told, and what is sent behind."""
_ANSWERS: st.SearchStrategy[Answer] = st.tuples(
    _HEADS,
    st.one_of(
        encoded(objects(["result", "error"])),
        _LINES.map(b"\n".join),
        st.binary(max_size=500),
        st.integers(0, 5_000).map(lambda many: b"\n" * many),
    ),
    st.sampled_from(["right"] * 40 + ["chunked", "not at all", "too large", "too small", "both"]),
    st.sampled_from([b""] * 30 + [_OTHERS_ANSWER, _OTHERS_ANSWER * 3, b"\r\n", b"\x00"]),
)


def _as_bytes(answer: Answer) -> tuple[bytes, bool]:
    """Return what an engine sends, and whether it closes the connection then."""
    head, body, size, behind = answer
    length = b"\r\nContent-Length: "
    chunked = b"\r\nTransfer-Encoding: chunked"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    told = {
        "right": length + b"%d\r\n\r\n" % len(body) + body,
        "chunked": chunked + b"\r\n\r\n" + chunks,
        "not at all": b"\r\n\r\n" + body,
        "too large": length + b"%d\r\n\r\n" % (len(body) + 7) + body,
        "too small": length + b"%d\r\n\r\n" % (len(body) // 2) + body,
        "both": length + b"%d" % len(body) + chunked + b"\r\n\r\n" + chunks,
    }
    return head + told[size] + behind, size != "right" or b"\r\n\r\n" in head


_OWN = "what another tenant's job came to"


class _Answers:
    """A runner whose engine answers the jobs of one tenant at random, and those of another one as it should."""

    def __init__(self, world: World, answers: dict[int, Answer]) -> None:
        self._world = world
        self._answers = answers

    async def check(self, answers: Sequence[Answer]) -> None:
        """Run a job for each answer, and between them jobs of the other tenant, whose results must be their own."""
        self._answers.clear()
        self._answers.update(enumerate(answers))
        for at in range(0, len(answers), _AT_ONCE):
            some = range(at, min(at + _AT_ONCE, len(answers)))
            await asyncio.gather(*(self._run(number) for number in some), self._run_others(), self._run_others())
        self._world.dapr.stores[STORE].clear()
        self._world.dapr.published.clear()

    async def _run(self, number: int) -> None:
        record = await self._world.run(number, max_attempts=1, seconds=2)
        assert record.status.is_final or record.status is Status.QUEUED
        assert _OWN not in record.model_dump_json(), record

    async def _run_others(self) -> None:
        record = await self._world.run(_OWN, tenant="umbra", seconds=30)
        assert record.output == _OWN, record


@contextlib.asynccontextmanager
async def _answering(folder: Path) -> AsyncIterator[_Answers]:
    answers: dict[int, Answer] = {}
    own = json.dumps({"result": _OWN}).encode()

    def respond(data: Any) -> tuple[bytes, bool]:
        return _as_bytes((b"HTTP/1.1 200 OK", own, "right", b"") if data == _OWN else answers[data])

    engine = RawEngine(respond)
    await engine.start()
    try:
        async with runner_world(
            folder, engine=engine, concurrency=2 * _AT_ONCE, hand_back_after_seconds=0.05, claim_after_seconds=5
        ) as world:
            yield _Answers(world, answers)
    finally:
        await engine.stop()


@attempt("answers jobs at random", layer="the runner reads one form of answer")
def test_any_answer_of_an_engine(tmp_path: Path, note: Noted) -> None:
    async def check(world: _Answers, answers: Sequence[Answer]) -> None:
        await world.check(answers)

    note(fuzz(lambda: _answering(tmp_path), _ANSWERS, check, share=0.25, words=[_OTHERS_ANSWER.decode()]))
