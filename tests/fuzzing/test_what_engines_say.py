"""Random schemas, cards, heartbeats and answers of engines: the gateway and the runner bear them."""

import json
from pathlib import Path
from typing import Any

from aiohttp import web
from hypothesis import strategies as st
from tests.support.fuzz_values import mutated, objects, schemas, texts, values
from tests.support.fuzzing import fuzz
from tests.support.gateway import ECHO, GatewayWorld, gateway_world, show_card
from tests.support.runner import World, runner_world
from tests.support.scripted_runner import succeed

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.job import Status
from enginehouse.runner.card import build_card
from enginehouse.runner.schema import described_by

_STORE = names.results_component(ECHO)


def test_any_schema_on_a_card(tmp_path: Path) -> None:
    async def check(world: GatewayWorld, example: tuple[dict[str, Any], list[Any]]) -> None:
        schema, inputs = example
        world.runner.answer = succeed
        await show_card(world.dapr, ECHO, input_schema=schema)
        await world.gateway.catalogue.read_card(ECHO)
        for value in inputs:
            answer = await world.client().post("/v1/engines/echo/jobs", json={"input": value})
            assert answer.status_code in (202, 422), answer.text

    inputs = st.lists(values | st.text("ab", max_size=2_000), max_size=3)
    fuzz(lambda: gateway_world(tmp_path), st.tuples(schemas, inputs), check)


def test_any_description_of_an_engine(tmp_path: Path) -> None:
    spec = EngineSpec(tenant="acme", name="echo")

    async def check(_: GatewayWorld, example: tuple[dict[str, Any], dict[str, Any], Any]) -> None:
        schema, components, noise = example
        body = {"application/json": {"schema": {"properties": {"data": schema}}}}
        operation = {"requestBody": {"content": body}, "responses": {"200": {"content": body}}}
        described = {"paths": {"/predict": {"post": operation}}, "components": {"schemas": components}, "x": noise}
        for openapi in (described, noise if isinstance(noise, dict) else {}):
            assert len(build_card(spec, "a", described_by(openapi), "").model_dump_json()) <= 2 * 64 * 1024

    components = st.dictionaries(st.sampled_from(["a", "b", "c"]), schemas, max_size=3)
    fuzz(lambda: gateway_world(tmp_path), st.tuples(schemas, components, values), check)


_CARD = ["engine", "slot", "version", "input_schema", "example", "concurrency", "execution_timeout_seconds", "max_queued_jobs", "retry", "batch", "openapi"]  # fmt: skip
_BEAT = ["worker", "slot", "version", "concurrency", "in_hand", "idle_since", "healthy", "subscribed", "warning", "problem", "at"]  # fmt: skip
_WHOLE_BEAT = {"worker": "w", "slot": "a", "version": "v1", "concurrency": 2, "healthy": True, "subscribed": True, "at": "2026-01-01T00:00:00Z"}  # fmt: skip
_WHOLE_CARD = {"engine": ECHO, "slot": "a", "version": "v1"}


def _with(whole: dict[str, Any], known: list[str]) -> st.SearchStrategy[bytes]:
    begun = json.dumps(whole)[:-1]
    return mutated(objects(known).map(lambda text: begun + ("," + text[1:] if text != "{}" else "}")) | texts)


_STORED = st.fixed_dictionaries(
    {},
    optional={
        "card/a": _with(_WHOLE_CARD, _CARD),
        "card/b": st.binary(max_size=200),
        "workers": st.sampled_from([b'{"workers":["w"]}', b'{"workers":["../card/a","w","w"]}']) | mutated(texts),
        "worker/w": _with(_WHOLE_BEAT, _BEAT),
        "control": mutated(objects(["stopped"])),
    },
)


def test_any_card_and_any_heartbeat(tmp_path: Path) -> None:
    async def check(world: GatewayWorld, stored: dict[str, bytes]) -> None:
        for key, value in stored.items():
            await world.sidecar.put(_STORE, key, value)
        await world.gateway.catalogue.read_card(ECHO)
        for path in ("/v1/engines", "/v1/engines/echo"):
            answer = await world.client().get(path)
            assert answer.status_code == 200, answer.text
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1})
        assert answer.status_code in (202, 422, 429), answer.text

    fuzz(lambda: gateway_world(tmp_path), _STORED, check)


_LINES = st.lists(mutated(objects(["progress", "output", "log", "metric", "result", "error"]) | texts), max_size=6)
_ANSWERS = st.tuples(
    st.sampled_from([200, 200, 200, 201, 204, 302, 400, 404, 422, 429, 500, 503]),
    st.sampled_from(["application/json", "application/x-ndjson", "text/html", "application/json; charset=utf-16", ""]),
    st.one_of(
        mutated(objects(["result", "error"])),
        _LINES.map(b"\n".join),
        st.binary(max_size=500),
        st.integers(0, 5_000).map(lambda many: b"\n" * many),
    ),
    st.dictionaries(
        st.sampled_from(
            ["Retry-After", "X-Engine-Warning", "Content-Encoding", "Location", "Set-Cookie", "Connection"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=50)
        | st.sampled_from(["1e400", "-1", "nan", "99999999999", "gzip"]),
        max_size=3,
    ),
)


def test_any_answer_of_an_engine(tmp_path: Path) -> None:
    async def check(world: World, example: tuple[int, str, bytes, dict[str, str]]) -> None:
        status, content_type, body, headers = example

        async def predict(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=body, headers={"Content-Type": content_type, **headers})

        world.engine.predict = predict
        world.engine.calls.clear()
        record = await world.run(max_attempts=1, seconds=2)
        assert record.status.is_final or record.status is Status.QUEUED

    fuzz(lambda: runner_world(tmp_path), _ANSWERS, check)
