"""The vectors agree with the published similarities of all-MiniLM-L6-v2, and similar texts have similar vectors."""

import json
import math
from pathlib import Path

import pytest
from engine import Embedding

from enginehouse.engine.testing import EngineTester, Refused


@pytest.fixture(scope="module")
def engine():
    with EngineTester(Embedding) as tester:
        yield tester


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_the_similarities_that_the_models_authors_publish(engine):
    # From the quick start of the Sentence Transformers documentation, which runs the same weights on PyTorch.
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    lovely, sunny, drove = engine.predict({"texts": texts})["vectors"]
    assert dot(lovely, sunny) == pytest.approx(0.6660, abs=1e-4)
    assert dot(lovely, drove) == pytest.approx(0.1046, abs=1e-4)
    assert dot(sunny, drove) == pytest.approx(0.1411, abs=1e-4)


def test_vectors_have_length_one(engine):
    answer = engine.predict({"texts": ["a", "A much longer text about nothing in particular, really.", "日本語", "  "]})
    assert answer["dimensions"] == 384
    for vector in answer["vectors"]:
        assert len(vector) == 384
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)


def test_the_example_finds_what_is_alike(engine):
    example = json.loads((Path(__file__).parent / "example.json").read_text())
    invoice, bill, cat = engine.predict(example)["vectors"]
    assert dot(invoice, bill) > 0.5 > 0.2 > dot(invoice, cat)


def test_order_and_company_change_nothing(engine):
    texts = [f"{'very ' * (n % 7)}different sentence number {n}" for n in range(80)]
    together = engine.predict({"texts": texts})["vectors"]
    for index in (0, 31, 32, 79):
        alone = engine.predict({"texts": [texts[index]]})["vectors"][0]
        assert dot(alone, together[index]) == pytest.approx(1, abs=1e-5)
    assert dot(together[0], together[1]) < 0.999


def test_long_texts_are_cut_and_named(engine):
    long = "word " * 300
    answer = engine.predict({"texts": ["short", long, "word " * 254, long + "end"]})
    assert answer["truncated"] == [1, 3]
    assert dot(answer["vectors"][1], answer["vectors"][3]) == pytest.approx(1, abs=1e-5)


def test_texts_without_a_known_word_are_named(engine):
    texts = ["a word", "   ", "\N{GRINNING FACE}", "\u200b\n", "?", "\ud7ff", "ends \N{GRINNING FACE}"]
    assert engine.predict({"texts": texts})["empty"] == [1, 2, 3, 5]
    first, second = engine.predict_batch([{"texts": ["one", " "]}, {"texts": [" ", "two"]}])
    assert (first["result"]["empty"], second["result"]["empty"]) == ([1], [0])


def test_a_batch_of_jobs_answers_as_each_alone(engine):
    jobs = [{"texts": ["one"]}, {"texts": []}, {"texts": ["two", "word " * 300]}]
    first, second, third = engine.predict_batch(jobs)
    assert first["result"]["vectors"][0] == pytest.approx(engine.predict(jobs[0])["vectors"][0], abs=1e-5)
    assert second["error"]["retryable"] is False
    assert [len(third["result"]["vectors"]), third["result"]["truncated"]] == [2, [1]]


@pytest.mark.parametrize("data", [{"texts": []}, {"texts": "one"}, {"texts": [""]}, {"texts": ["x"] * 257}, {}])
def test_bad_inputs_are_refused_for_good(engine, data):
    with pytest.raises(Refused) as refused:
        engine.predict(data)
    assert refused.value.status == 422
