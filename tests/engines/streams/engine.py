"""Reports each of its steps, for readers who follow a job."""

import time
from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, Field

from enginehouse.engine import Engine, Event, Log, Metric, Output, Progress


class Steps(BaseModel):
    """Number of steps, and the length of each."""

    steps: Annotated[int, Field(ge=1, le=10_000)] = 3
    seconds: Annotated[float, Field(ge=0, le=60)] = 0.1


class Streams(Engine):
    """Answers {"steps": n} after an event for each step."""

    concurrency = 8

    def predict(self, data: Steps) -> Iterator[Event | dict[str, int]]:
        yield Log("begun")
        for step in range(1, data.steps + 1):
            time.sleep(data.seconds)
            yield Progress(step / data.steps, f"step {step}")
            yield Output(step)
        yield Metric("steps", data.steps)
        yield {"steps": data.steps}
