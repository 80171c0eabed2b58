"""Answers with its input at once. Nothing is cheaper, so benchmarks measure the platform."""

from typing import Any

from enginehouse.engine import Engine


class Echo(Engine):
    """Answers with its input."""

    async def predict(self, data: Any) -> Any:
        return data
