"""Answers with more bytes than can be kept."""

from typing import Any

from enginehouse.engine import Engine


class AnswersTooMuch(Engine):
    """Answers 50 MB, or as many bytes as its input's `bytes`."""

    def predict(self, data: Any) -> str:
        size = data.get("bytes", 50_000_000) if isinstance(data, dict) else 50_000_000
        return "x" * size
