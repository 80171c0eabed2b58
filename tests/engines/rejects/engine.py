"""Rejects every input for good."""

from typing import Any

from enginehouse.engine import Engine, InvalidInput


class Rejects(Engine):
    """Rejects every input."""

    def predict(self, data: Any) -> Any:
        raise InvalidInput("this input can never work")
