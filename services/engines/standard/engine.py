"""Find the sentiment of a text with VADER. Its lexicon comes inside its package."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from enginehouse.engine import Engine

Label = Literal["positive", "neutral", "negative"]

THRESHOLD = 0.05
"""From this compound score on, the authors of VADER call a text positive or negative."""


class Text(BaseModel):
    """A text to judge."""

    text: Annotated[str, Field(min_length=1, max_length=20_000, description="English works; other languages do not.")]


class Sentiment(BaseModel):
    """The sentiment of a text."""

    label: Label
    score: Annotated[float, Field(ge=-1, le=1, description="From -1, most negative, to 1, most positive.")]
    scores: dict[Label, float] = Field(description="Share of the text that is of each kind; they add up to 1.")


class Standard(Engine):
    """Sentiment of an English text."""

    concurrency = 8  # As in engine.yaml.

    def load(self) -> None:
        self.analyzer = SentimentIntensityAnalyzer()

    def predict(self, data: Text) -> Sentiment:
        found = self.analyzer.polarity_scores(data.text)
        score = found["compound"]
        label: Label = "positive" if score >= THRESHOLD else "negative" if score <= -THRESHOLD else "neutral"
        return Sentiment(
            label=label,
            score=score,
            scores={"positive": found["pos"], "neutral": found["neu"], "negative": found["neg"]},
        )
