"""The standard engine gives the known answers of VADER, and says what it could not judge."""

import json
import time
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


@pytest.mark.parametrize(
    ("text", "label", "words", "known"),
    [
        ("I love it \N{GRINNING FACE}", "positive", 4, 2),
        ("\N{GRINNING FACE}\N{GRINNING FACE}", "positive", 2, 2),
        (":-)", "positive", 1, 1),
        ("これは素晴らしい", "neutral", 1, 0),
        ("Das ist wunderbar", "neutral", 3, 0),
        ("line one is good\n\nline two is bad", "negative", 8, 2),
        ("GOOD\tGood\u00a0good", "positive", 3, 3),
    ],
    ids=["word and emoji", "emoji", "emoticon", "japanese", "german", "lines", "odd spaces"],
)
def test_an_answer_says_how_much_of_the_text_is_known(engine, text, label, words, known):
    answer = engine.predict({"text": text})
    assert (answer["label"], answer["words"], answer["known_words"]) == (label, words, known)


@pytest.mark.parametrize("text", ["   ", "\n\t", "!!! ... ?", "---"])
def test_a_text_without_words_is_refused_with_the_reason(engine, text):
    with pytest.raises(Refused, match="holds no words") as refused:
        engine.predict({"text": text})
    assert refused.value.status == 422


def test_a_long_text_is_judged_in_parts_of_whole_sentences(engine):
    alone = engine.predict({"text": "I love it. I hate it."})
    long = engine.predict({"text": "I love it. I hate it. " * 100})
    assert (alone["parts"], long["parts"], long["words"]) == (1, 10, 600)
    assert long["label"] == alone["label"] == "positive"
    glad = engine.predict({"text": "I love it. " * 300})
    assert (glad["label"], glad["known_words"]) == ("positive", 300)


@pytest.mark.parametrize("unit", ["\N{GRINNING FACE}", "good but ", "not good ", "good!", "cut the mustard ", "a "])
def test_no_text_takes_long(engine, unit):
    began = time.monotonic()
    engine.predict({"text": (unit * 20_000)[:20_000]})
    assert time.monotonic() - began < 10  # In one piece, 20,000 emoji took ten minutes; in parts they take 1 s.


def test_the_example_is_an_input(engine):
    example = json.loads((Path(__file__).parent / "example.json").read_text())
    assert engine.predict(example)["label"] == "positive"


@pytest.mark.parametrize("data", ["just text", {}, {"text": ""}, {"text": "x" * 20_001}, {"text": 5}])
def test_bad_inputs_are_refused_for_good(engine, data):
    with pytest.raises(Refused) as refused:
        engine.predict(data)
    assert refused.value.status == 422
    assert refused.value.error["retryable"] is False
