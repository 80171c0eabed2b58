"""Runs whatever Python its input says, as an engine may that was taken over, and answers what it calls `result`."""

from typing import Any

from enginehouse.engine import Engine


class BreaksOut(Engine):
    """Runs its input's `code`."""

    def predict(self, data: Any) -> Any:
        scope: dict[str, Any] = {}
        exec(data["code"], scope)
        return scope["result"]
