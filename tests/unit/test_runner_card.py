"""The card: the engine's schemas are made complete, bounded, published, and announced when they change."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pydantic_core
import pytest
from pydantic import ValidationError
from tests.support.break_ins import attempt
from tests.support.runner import ENGINE, STORE, World, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import CARD_MAX_BYTES, EngineCard, EngineSpec
from enginehouse.contracts.job import Status
from enginehouse.json_schema import UnusableSchema
from enginehouse.runner.card import build_card
from enginehouse.runner.pace import Pace
from enginehouse.runner.schema import depth, described_by, stand_alone

SPEC = EngineSpec(tenant="acme", name="echo", version="v7", concurrency=3)


def describe(data: Any, result: Any = None, schemas: dict[str, Any] | None = None, **body: Any) -> dict[str, Any]:
    request = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    answer = {"type": "object", "properties": {"result": result or {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "paths": {
            "/predict": {
                "post": {
                    "requestBody": {"content": {"application/json": {"schema": request, **body}}},
                    "responses": {"200": {"content": {"application/json": {"schema": answer}}}},
                }
            }
        },
        "components": {"schemas": schemas or {}},
    }


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


def shown(world: World) -> EngineCard | None:
    entry = world.dapr.stores[STORE].get(names.card_key("a"))
    return EngineCard.model_validate_json(entry.value) if entry else None


def announced(world: World) -> list[str]:
    events = [json.loads(event) for event in world.dapr.published[names.COMPLETIONS_TOPIC]]
    return [event["subject"] for event in events if event["type"].endswith("engine.announced.v1")]


def test_a_card_says_what_the_spec_and_the_engine_say() -> None:
    card = build_card(SPEC, "b", described_by(describe({"type": "integer"}, {"type": "number"})))
    assert (card.engine, card.slot, card.version, card.concurrency) == (ENGINE, "b", "v7", 3)
    assert card.input_schema == {"type": "integer"}
    assert card.output_schema == {"type": "number"}
    assert card.openapi is not None


def test_a_card_keeps_the_engines_description_as_text_and_shows_it_as_an_object() -> None:
    openapi = {"paths": {"/predict": {}}, "x-any": [1.5, None, "ü"]}
    given = {"engine": ENGINE, "slot": "a", "version": "v1", "openapi": openapi}
    card = EngineCard.model_validate_json(json.dumps(given))
    assert isinstance(card.openapi, bytes)
    assert card.model_dump()["openapi"] == json.loads(card.model_dump_json())["openapi"] == openapi
    with pytest.raises(ValidationError, match="must be an object"):
        EngineCard.model_validate_json(json.dumps({**given, "openapi": ["no object"]}))


def test_references_become_definitions_of_its_own() -> None:
    schemas = {
        "Page": {
            "type": "object",
            "properties": {"boxes": {"type": "array", "items": {"$ref": "#/components/schemas/Box"}}},
        },
        "Box": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
        "Unused": {"type": "string"},
    }
    card = build_card(SPEC, "a", described_by(describe({"$ref": "#/components/schemas/Page"}, schemas=schemas)))
    assert set(card.input_schema["$defs"]) == {"Page", "Box"}
    assert jsonschema_rs.is_valid(card.input_schema, {"boxes": [{"x": 1}]})
    assert not jsonschema_rs.is_valid(card.input_schema, {"boxes": [{"y": 1}]})


def test_a_body_behind_a_reference_is_found() -> None:
    openapi = describe({"type": "string"})
    content = openapi["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    openapi["components"]["schemas"]["Request"] = content["schema"]
    content["schema"] = {"$ref": "#/components/schemas/Request"}
    assert build_card(SPEC, "a", described_by(openapi)).input_schema == {"type": "string"}


def test_recursive_schemas_work() -> None:
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}}}
    schema = build_card(
        SPEC, "a", described_by(describe({"$ref": "#/components/schemas/Tree"}, schemas={"Tree": tree}))
    ).input_schema
    assert jsonschema_rs.is_valid(schema, {"kids": [{"kids": []}]})
    assert not jsonschema_rs.is_valid(schema, {"kids": [{"kids": 1}]})


def test_nullable_of_older_descriptions() -> None:
    schema = build_card(SPEC, "a", described_by(describe({"type": "string", "nullable": True}))).input_schema
    assert jsonschema_rs.is_valid(schema, None)


@pytest.mark.parametrize(
    "data",
    [
        {"$ref": "http://127.0.0.1/secret.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/components/schemas/Missing"},
        {"type": "no such type"},
        {"type": "object", "properties": {"a": 1}},
        {"exclusiveMinimum": True},
    ],
)
def test_schemas_that_cannot_be_used_let_everything_through(data: Any) -> None:
    assert build_card(SPEC, "a", described_by(describe(data))).input_schema == {}


@pytest.mark.parametrize("own", [[], "x", 1, None])
def test_definitions_that_are_no_object_are_refused(own: Any) -> None:
    schema = {"$defs": own, "properties": {"a": {"$ref": "#/components/schemas/A"}}}
    with pytest.raises(UnusableSchema, match="must be an object"):
        stand_alone(schema, {"components": {"schemas": {"A": {"type": "string"}}}})


@attempt("describes itself too deep and too large", layer="a bounded card")
def test_too_deep_and_too_many_are_refused() -> None:
    deep: Any = {}
    for _ in range(100):
        deep = {"items": deep}
    with pytest.raises(UnusableSchema, match="deep"):
        stand_alone(deep, {})
    with pytest.raises(UnusableSchema, match="large"):
        stand_alone({"enum": ["x" * 70_000]}, {})
    bomb = {f"S{i}": {"anyOf": [{"$ref": f"#/components/schemas/S{i + 1}"}] * 900} for i in range(30)}
    with pytest.raises(UnusableSchema):
        stand_alone({"$ref": "#/components/schemas/S0"}, {"components": {"schemas": bomb}})


def test_a_card_keeps_its_bounds_and_its_input_schema_longest() -> None:
    openapi = describe({"type": "string"})
    openapi["info"] = {"description": "x" * CARD_MAX_BYTES}
    card = build_card(SPEC, "a", described_by(openapi))
    assert card.openapi is None
    assert card.input_schema == {"type": "string"}
    assert len(pydantic_core.to_json(card)) <= CARD_MAX_BYTES


@pytest.mark.parametrize("openapi", [{}, {"paths": []}, {"paths": {"/predict": {"post": 3}}}, {"components": 1}])
def test_engines_without_a_description_take_anything(openapi: Any) -> None:
    assert build_card(SPEC, "a", described_by(openapi)).input_schema == {}


@pytest.mark.parametrize(
    "openapi",
    [
        describe({"type": "string"}, example={"data": "hello"}),
        describe({"type": "string", "examples": ["hello", "bye"]}),
        describe({"type": "string", "example": "hello"}),
        describe({"$ref": "#/components/schemas/T"}, schemas={"T": {"type": "string", "examples": ["hello"]}}),
    ],
)
def test_an_example_is_found(openapi: Any) -> None:
    assert build_card(SPEC, "a", described_by(openapi)).example == "hello"


async def test_the_authors_own_example_goes_before_that_of_the_description(tmp_path: Path) -> None:
    (tmp_path / "example.json").write_text('"mine"')
    async with runner_world(tmp_path) as world:
        world.engine.openapi = describe({"type": "string", "example": "of the description"})
        world.runner.cards.refresh(world.runner.pool.replicas[0].client)
        await until_async(lambda: (card := shown(world)) is not None and card.input_schema != {})
        card = shown(world)
        assert card is not None
        assert card.example == "mine"


def test_depth() -> None:
    assert [depth(1), depth([]), depth({"a": 1}), depth([[1]])] == [0, 0, 1, 2]


async def test_the_card_is_shown_and_announced_once(world: World) -> None:
    await until_async(lambda: announced(world) == ["a"])
    card = shown(world)
    assert card is not None
    assert card.openapi is None
    world.runner.cards.refresh(world.runner.pool.replicas[0].client)
    puts = world.dapr.calls["put"]
    await until_async(lambda: world.dapr.calls["put"] > puts)
    assert announced(world) == ["a"]


async def test_an_engine_that_changed_is_announced_again(world: World) -> None:
    await until_async(lambda: announced(world) == ["a"])
    world.engine.openapi = describe({"type": "integer"})
    world.runner.cards.refresh(world.runner.pool.replicas[0].client)
    await until_async(lambda: len(announced(world)) == 2)
    card = shown(world)
    assert card is not None
    assert card.input_schema == {"type": "integer"}


async def test_trouble_delays_the_card_only(tmp_path: Path) -> None:
    async with runner_world(tmp_path, pace=Pace(card_retry_seconds=0.01)) as world:
        await until_async(lambda: announced(world))
        world.dapr.fail("publish", times=2)
        world.engine.openapi = describe({"type": "integer"})
        world.runner.cards.refresh(world.runner.pool.replicas[0].client)
        await until_async(lambda: len(announced(world)) == 2)


@attempt("describes itself so that reading it harms", layer="a bounded card, read off the loop")
async def test_a_hostile_description_harms_nothing(world: World) -> None:
    world.engine.openapi = {"paths": "x" * 2_000_000}
    world.runner.cards.refresh(world.runner.pool.replicas[0].client)
    assert (await world.run()).status is Status.SUCCEEDED
