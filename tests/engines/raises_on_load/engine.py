"""Fails to load."""

from typing import Any

from enginehouse.engine import Engine


class RaisesOnLoad(Engine):
    """Its model cannot be read."""

    def load(self) -> None:
        raise RuntimeError("the model file is damaged")

    def predict(self, data: Any) -> Any:
        return data
