"""Fails the first attempts of a job, then succeeds."""

import threading
from collections import Counter
from typing import Annotated

from pydantic import BaseModel, Field

from enginehouse.engine import Engine


class Moody(BaseModel):
    """The input. Inputs with the same `key` are attempts of the same job."""

    key: str
    failures: Annotated[int, Field(ge=0)] = 1


class Flaky(Engine):
    """Fails the first `failures` calls for a `key`, then answers with the number of calls."""

    def load(self) -> None:
        self.calls: Counter[str] = Counter()
        self.lock = threading.Lock()

    def predict(self, data: Moody) -> dict[str, int]:
        with self.lock:
            self.calls[data.key] += 1
            calls = self.calls[data.key]
        if calls <= data.failures:
            raise RuntimeError(f"call {calls} of {data.failures} that fail")
        return {"calls": calls}
