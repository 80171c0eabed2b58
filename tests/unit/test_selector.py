"""Engines are selected by tenant, name, version and label, and a selector that cannot be read is refused."""

import pytest
from pydantic import ValidationError
from tests.support.break_ins import attempt

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.selector import Selector


@pytest.mark.parametrize(
    ("text", "selects"),
    [
        *(("", True), ("tenant=acme", True), ("tenant=umbra", False), ("name=ocr, version=v2", True)),
        *(
            ("label.team=nlp", True),
            ("label.team=vision", False),
            ("label.none=x", False),
            ("version=v2,label.team=x", False),
        ),
    ],
)
def test_every_part_must_hold(text: str, selects: bool) -> None:
    assert Selector.parse(text).selects("acme", "ocr", "v2", {"team": "nlp"}) is selects


@pytest.mark.parametrize(
    "text", ["acme", "tenant=", "owner=acme", "tenant=a,tenant=b", "label.=x", "tenant=acme,,", "a=b=c"]
)
def test_a_selector_that_cannot_be_read_is_refused_and_says_how_one_looks(text: str) -> None:
    with pytest.raises(RequestError, match=r"label\.team=nlp"):
        Selector.parse(text)


@attempt("gives its engine hostile labels", layer="labels are small words, and few")
@pytest.mark.parametrize("labels", [{"Team": "x"}, {"team": ""}, {"team": "a b"}, {f"l{n}": "x" for n in range(17)}])
def test_labels_are_small_words(labels: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        EngineSpec.model_validate({"tenant": "acme", "name": "one", "labels": labels})
