"""my-engine: counts the words of a text."""

from typing import Annotated

from pydantic import BaseModel, Field

from enginehouse.engine import Engine, InvalidInput


class Text(BaseModel):
    """The input. Inputs that do not fit are refused before they reach `predict`."""

    text: Annotated[str, Field(max_length=20_000)]


class Count(BaseModel):
    """The result."""

    words: int
    longest: str


class MyEngine(Engine):
    """Counts the words of a text."""

    def load(self) -> None:
        """Read the model here, once, before the first input. The engine has no network when it runs."""
        self.punctuation = ".,:;!?\"'()"

    def predict(self, data: Text) -> Count:
        """Answer one input. This may block: it runs in one of `concurrency` threads."""
        words = [word.strip(self.punctuation) for word in data.text.split()]
        if not words:
            raise InvalidInput("the text holds no words")  # Never retried. Any other exception may be.
        return Count(words=len(words), longest=max(words, key=len))
