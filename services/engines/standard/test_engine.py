"""The standard engine gives the known answers of VADER."""

import json
from pathlib import Path

import pytest
from engine import Standard

from enginehouse.engine.testing import EngineTester, Refused


@pytest.fixture(scope="module")
def engine():
    with EngineTester(Standard) as tester:
        yield tester


@pytest.mark.parametrize(
    ("text", "label", "score"),
    [
        ("VADER is smart, handsome, and funny!", "positive", 0.8439),
        ("VADER is not smart, handsome, nor funny.", "negative", -0.7424),
        ("The book was only kind of good.", "positive", 0.3832),
        ("Today SUX!", "negative", -0.5461),
        ("The train leaves at nine.", "neutral", 0.0),
    ],
)
def test_known_texts(engine, text, label, score):
    answer = engine.predict({"text": text})
    assert (answer["label"], answer["score"]) == (label, score)
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=0.01)


def test_the_example_is_an_input(engine):
    example = json.loads((Path(__file__).parent / "example.json").read_text())
    assert engine.predict(example)["label"] == "positive"


@pytest.mark.parametrize("data", ["just text", {}, {"text": ""}, {"text": "x" * 20_001}, {"text": 5}])
def test_bad_inputs_are_refused_for_good(engine, data):
    with pytest.raises(Refused) as refused:
        engine.predict(data)
    assert refused.value.status == 422
    assert refused.value.error["retryable"] is False
