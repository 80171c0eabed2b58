"""An engine's OpenAPI document shows the exact types of predict, at the place where the platform looks."""

from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel

from enginehouse.contracts.engine import PredictRequest
from enginehouse.engine import Engine
from enginehouse.engine.openapi import add_predict
from enginehouse.engine.signature import NotAnEngine, read_signature


class Word(BaseModel):
    text: str


class Page(BaseModel):
    words: list[Word]
    page_number: int = 1


class Reader(Engine):
    def predict(self, data: Page, parameters: dict[str, int] | None = None) -> list[Word]:
        return data.words

    def predict_batch(self, data: list[Page]) -> list[list[Word]]:
        return [page.words for page in data]

    def update(self, data: Word) -> bool:
        return True


def document_of(engine: type[Engine]) -> dict[str, Any]:
    return add_predict(
        {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}, read_signature(engine)
    )


def operation(document: dict[str, Any], path: str = "/predict") -> tuple[dict[str, Any], dict[str, Any]]:
    post = document["paths"][path]["post"]
    return (
        post["requestBody"]["content"]["application/json"]["schema"]["properties"],
        post["responses"]["200"]["content"]["application/json"]["schema"]["properties"],
    )


def test_data_and_result_refer_to_components() -> None:
    document = document_of(Reader)
    takes, gives = operation(document)
    assert takes["data"] == {"$ref": "#/components/schemas/Page"}
    assert gives["result"]["items"] == {"$ref": "#/components/schemas/Word"}
    assert set(document["components"]["schemas"]) == {"Page", "Word"}
    assert set(takes) == set(PredictRequest.model_fields)


def test_the_schema_accepts_what_fits_and_nothing_else() -> None:
    document = document_of(Reader)
    takes, _ = operation(document)
    validator = jsonschema_rs.validator_for({**takes["data"], "components": document["components"]})
    assert validator.is_valid({"words": [{"text": "a"}]})
    assert not validator.is_valid({"words": [{"txt": "a"}]})
    assert not validator.is_valid({"words": "a"})


def test_optional_operations_are_announced_only_where_they_are() -> None:
    class Plain(Engine):
        def predict(self, data: str) -> str:
            return data

    assert set(document_of(Reader)["paths"]) == {"/predict", "/predict/batch", "/update"}
    assert set(document_of(Plain)["paths"]) == {"/predict"}
    takes, gives = operation(document_of(Plain))
    assert takes == {"data": {"type": "string"}, "id": {"type": "string"}}
    assert gives == {"result": {"type": "string"}}


def test_without_types_anything_goes() -> None:
    class Untyped(Engine):
        def predict(self, data):  # type: ignore[no-untyped-def]
            return data

    takes, gives = operation(document_of(Untyped))
    assert (takes["data"], gives["result"]) == ({}, {})


class NoPredict(Engine):
    pass


class NoArgument(Engine):
    def predict(self) -> int:
        return 1


class TooMany(Engine):
    def predict(self, data: int, more: int) -> int:
        return data + more


class NoDefault(Engine):
    def predict(self, data: int, parameters: dict[str, int]) -> int:
        return data


class Yields(Engine):
    def predict(self, data: int) -> int:
        return data

    def update(self, data: int) -> Any:
        yield data


class OtherBatch(Engine):
    def predict(self, data: int) -> int:
        return data

    def predict_batch(self, data: list[str]) -> list[int]:
        return [len(item) for item in data]


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (NoPredict, "NoPredict needs a method predict"),
        (NoArgument, "takes one argument"),
        (TooMany, "takes one argument"),
        (NoDefault, "parameters needs a default"),
        (Yields, "must return its result, not yield it"),
        (OtherBatch, "must take a list of what predict takes"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(engine: type[Engine], says: str) -> None:
    with pytest.raises(NotAnEngine, match=says):
        read_signature(engine)
