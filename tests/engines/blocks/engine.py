"""Blocks one of its threads, as a slow model does, for as long as its input says."""

import time
from typing import Annotated

from pydantic import BaseModel, Field

from enginehouse.engine import Engine


class Work(BaseModel):
    """How long the prediction takes."""

    seconds: Annotated[float, Field(ge=0, le=3_600)]


class Blocks(Engine):
    """Answers {"blocked": seconds} after that time."""

    concurrency = 8

    def predict(self, data: Work) -> dict[str, float]:
        time.sleep(data.seconds)
        return {"blocked": data.seconds}
