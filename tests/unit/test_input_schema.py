"""Schemas of strangers: bounded before use, never fetched, checked in a bounded process where a check may take long."""

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pydantic_core
import pytest
from tests.support.break_ins import attempt
from tests.support.stalls import LONGEST_STALL_SECONDS, watched_loop

from enginehouse.checkers import Checkers
from enginehouse.contracts.errors import InvalidInput
from enginehouse.gateway.engines.input_schema import InputSchema
from enginehouse.json_schema import Cost, UnusableSchema, compiled, measure
from enginehouse.runner.schema import stand_alone

HOST = "http://127.0.0.1"


def doubling(levels: int, keyword: str = "allOf") -> dict[str, Any]:
    """Return a schema whose references double at each level."""
    level = {f"l{n}": {keyword: [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/l0", "$defs": {**level, f"l{levels}": {"type": "integer"}}}


def chain(length: int) -> dict[str, Any]:
    links = {f"l{n}": {"$ref": f"#/$defs/l{n + 1}"} for n in range(length)}
    return {"$ref": "#/$defs/l0", "$defs": {**links, f"l{length}": {}}}


class Counting(Checkers):
    """Counts the checks that run in processes."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    async def run(self, *arguments: Any) -> Any:
        self.runs += 1
        return await super().run(*arguments)


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """Listen on loopback; give the address and the paths that are asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"{HOST}:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("schema", "cost"),
    [
        ({"type": "integer"}, Cost(1, bounded=True)),
        ({"properties": {"a": {"type": "string"}, "pattern": {"enum": [{"$ref": "x"}]}}}, Cost(6, bounded=True)),
        ({"enum": ["a"] * 5_000}, Cost(1, bounded=True)),
        ({"enum": [1, {"a": [2, 3]}]}, Cost(7, bounded=True)),
        ({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "string"}, "unused": {}}}, Cost(3, bounded=True)),
        (doubling(3), Cost(30, bounded=True)),
        ({"items": {"$ref": "#"}}, Cost(2, bounded=False)),
        ({"pattern": "^a+$"}, Cost(1, bounded=False)),
        ({"patternProperties": {"^a": {}}}, Cost(2, bounded=False)),
        ({"uniqueItems": True}, Cost(1, bounded=False)),
        ({"multipleOf": 1e-7}, Cost(1, bounded=False)),
    ],
)
def test_the_cost_of_a_schema_counts_what_its_references_name(schema: dict[str, Any], cost: Cost) -> None:
    assert measure(schema) == cost


@attempt("gives a schema too deep, too large or too costly", layer="bounded schemas")
@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (doubling(27), "10000 parts"),
        ({"items": {"enum": [1] * 20_000}}, "10000 parts"),
        ({"$ref": "#/" + "9" * 5_000}, "leads nowhere"),
        (doubling(60, "anyOf"), "deep once"),
        (chain(300), "deep once"),
        ({"$ref": f"{HOST}/x"}, "inside itself"),
        ({"$ref": "file:///etc/passwd"}, "inside itself"),
        ({"$ref": "other.json#/a"}, "inside itself"),
        ({"$dynamicRef": "#anchor"}, "inside itself"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$schema": f"{HOST}/dialect"}, "not a dialect"),
        ({"$schema": "file:///etc/passwd"}, "not a dialect"),
        ({"items": {"$schema": "https://example.com/dialect"}}, "not a dialect"),
        ({"items": {"$id": f"{HOST}/x", "$ref": "#"}}, r"\$id inside"),
        ({"pattern": "a" * 2_000}, "1000 characters"),
        ({"patternProperties": {"a" * 2_000: {}}}, "1000 characters"),
        ({"pattern": "(a{0,200}){0,200}b"}, "not a valid JSON Schema"),
        ({"pattern": "(?=a)b"}, "not a valid JSON Schema"),
        ({"type": "no such type"}, "not a valid JSON Schema"),
    ],
)
def test_what_is_out_of_bounds_is_not_used_here_nor_by_the_runner(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableSchema, match=reason):
        InputSchema(schema)
    with pytest.raises(UnusableSchema):
        stand_alone(schema, {})


@pytest.mark.parametrize(
    "dialect", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
def test_a_schema_may_name_its_dialect_and_itself(dialect: str) -> None:
    validator = compiled({"$schema": dialect, "$id": f"{HOST}/mine", "items": {"$ref": "#/x"}, "x": {"type": "string"}})
    assert not validator.is_valid([1])


@attempt("gives a schema with remote references", layer="nothing is ever fetched")
@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": "{host}/a"},
        {"$ref": "{host}/b"},
        {"$id": "{host}/c", "$ref": "d"},
        {"$id": "{host}/e/", "items": {"$ref": "#/x"}, "x": {"$id": "f", "$ref": "g"}},
    ],
)
def test_nothing_that_a_schema_names_is_fetched(schema: dict[str, Any], listener: tuple[str, list[str]]) -> None:
    host, asked = listener
    named = pydantic_core.from_json(pydantic_core.to_json(schema).replace(b"{host}", host.encode()))
    for use in (InputSchema, compiled, lambda given: stand_alone(given, {})):
        with pytest.raises(UnusableSchema):
            use(named)
    assert asked == []


async def test_a_check_that_cannot_take_long_needs_no_process() -> None:
    checkers = Counting()
    schema = InputSchema({"properties": {"text": {"type": "string"}}})
    await schema.check({"text": "fits"}, 20, checkers=checkers, caller="acme")
    with pytest.raises(InvalidInput, match=r"input\.text"):
        await schema.check({"text": 1}, 20, checkers=checkers, caller="acme")
    assert checkers.runs == 0


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"items": {"pattern": "^a+$"}}, ["aa"], ["aa", "b"]),
        ({"items": {"$ref": "#"}, "type": "array"}, [[[]]], [[1]]),
        ({"items": {"type": "integer"}}, list(range(500_000)), ["x"] * 500_000),
    ],
)
async def test_any_other_check_runs_in_a_process_and_says_the_same(schema: dict[str, Any], good: Any, bad: Any) -> None:
    checkers = Counting()
    made = InputSchema(schema)
    await made.check(good, len(pydantic_core.to_json(good)), checkers=checkers, caller="acme")
    with pytest.raises(InvalidInput, match=r"^input: |^input\[\d"):
        await made.check(bad, len(pydantic_core.to_json(bad)), checkers=checkers, caller="acme")
    assert checkers.runs == 2


@attempt("gives a schema that takes for ever to check", layer="checked in other processes, with a time limit")
async def test_a_check_that_takes_too_long_refuses_its_input_and_holds_up_nobody() -> None:
    """Explaining why a nested value does not fit a recursive schema takes twice as long with each level."""
    schema = InputSchema({"type": "array", "anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]})
    value: Any = 1
    for _ in range(40):
        value = [value]
    with watched_loop() as longest, pytest.raises(InvalidInput, match="takes too long"):
        await schema.check(value, 81, checkers=Checkers(), caller="mallory")
    assert longest[0] < LONGEST_STALL_SECONDS
