"""Call the engine in this process, through the same app that serves it."""

import json
from pathlib import Path

import pytest
from engine import MyEngine

from enginehouse.engine.testing import EngineTester, Refused


@pytest.fixture(scope="module")
def engine():
    with EngineTester(MyEngine) as tester:
        yield tester


def test_the_example(engine):
    example = json.loads((Path(__file__).parent / "example.json").read_text())
    assert engine.predict(example) == {"words": 4, "longest": "engines"}


def test_a_text_without_words_is_rejected_for_good(engine):
    with pytest.raises(Refused) as refused:
        engine.predict({"text": "  "})
    assert refused.value.status == 422
    assert refused.value.error == {"message": "the text holds no words", "retryable": False}
