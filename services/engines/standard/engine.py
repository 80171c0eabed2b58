"""Find the sentiment of a text with VADER. Its lexicon comes inside its package."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from enginehouse.engine import Engine, InvalidInput

Label = Literal["positive", "neutral", "negative"]

THRESHOLD = 0.05
"""From this compound score on, the authors of VADER call a text positive or negative."""

PART_WORDS = 64
"""Longer texts are judged in parts of whole sentences, as VADER's authors advise: its score is made for a few sentences.
Its time also grows with the square of the words: 20,000 emoji at once took 10 minutes, in parts they take 1 s."""


class Text(BaseModel):
    """A text to judge."""

    text: Annotated[str, Field(min_length=1, max_length=20_000, description="English works; other languages do not.")]


class Sentiment(BaseModel):
    """The sentiment of a text."""

    label: Label
    score: Annotated[float, Field(ge=-1, le=1, description="From -1, most negative, to 1, most positive.")]
    scores: dict[Label, float] = Field(description="Share of the text that is of each kind; they add up to 1.")
    words: int = Field(description="Words and emoji of the text.")
    known_words: int = Field(
        description="Those that carry a sentiment in the lexicon. 0: the text is called neutral because nothing is known."
    )
    parts: int = Field(
        description=f"Parts that were judged, each of at most {PART_WORDS} words; the scores are their mean."
    )


class Standard(Engine):
    """Sentiment of an English text."""

    def load(self) -> None:
        self.analyzer = SentimentIntensityAnalyzer()
        # Lone code points: VADER replaces each by a description, so each costs as much as some words.
        emoji = "".join(re.escape(one) for one in self.analyzer.emojis if len(one) == 1)
        self.word = re.compile(f"[{emoji}]|[^\\s{emoji}]+")

    def predict(self, data: Text) -> Sentiment:
        words = self.word.findall(data.text)
        if not any(self._says_something(word) for word in words):
            raise InvalidInput("text: holds no words, only spaces or punctuation")
        parts = list(self._parts(data.text))
        found = [(self.analyzer.polarity_scores(part), count) for part, count in parts]

        def mean(name: str) -> float:
            digits = 4 if name == "compound" else 3
            return round(sum(scores[name] * count for scores, count in found) / len(words), digits)

        score = mean("compound")
        label: Label = "positive" if score >= THRESHOLD else "negative" if score <= -THRESHOLD else "neutral"
        return Sentiment(
            label=label,
            score=score,
            scores={"positive": mean("pos"), "neutral": mean("neu"), "negative": mean("neg")},
            words=len(words),
            known_words=sum(self._is_known(word) for word in words),
            parts=len(parts),
        )

    def _says_something(self, word: str) -> bool:
        return any(letter.isalnum() for letter in word) or self._is_known(word)

    def _is_known(self, word: str) -> bool:
        bare = word.strip(".,:;!?\"'()[]*").lower()
        return word in self.analyzer.emojis or word.lower() in self.analyzer.lexicon or bare in self.analyzer.lexicon

    def _parts(self, text: str) -> Iterator[tuple[str, int]]:
        """Yield the text in parts of at most PART_WORDS words, with their number. End a part with a sentence.

        An emoji counts as the words of its description, which VADER puts in its place.
        """
        words = list(self.word.finditer(text))
        weights = [len(self.analyzer.emojis.get(word.group(), "-").split()) for word in words]
        start = 0
        while start < len(words):
            end, weight = start + 1, weights[start]
            while end < len(words) and weight + weights[end] <= PART_WORDS:
                weight += weights[end]
                end += 1
            if end < len(words):
                ends = (at for at in range(end, start, -1) if words[at - 1].group().endswith((".", "!", "?")))
                end = next(ends, end)
            yield text[words[start].start() : words[end - 1].end()], end - start
            start = end
