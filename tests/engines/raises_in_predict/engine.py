"""Fails on every input."""

from typing import Any

from enginehouse.engine import Engine


class RaisesInPredict(Engine):
    """Fails on every input."""

    def predict(self, data: Any) -> Any:
        raise RuntimeError("no prediction today")
