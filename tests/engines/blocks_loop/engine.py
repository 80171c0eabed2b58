"""Blocks the event loop for as long as its input says: `async`, and yet it does not await, as a beginner writes it."""

import time
from typing import Annotated

from pydantic import BaseModel, Field

from enginehouse.engine import Engine


class Work(BaseModel):
    """How long the prediction takes."""

    seconds: Annotated[float, Field(ge=0, le=3_600)]


class BlocksLoop(Engine):
    """Answers {"blocked": seconds} after that time."""

    async def predict(self, data: Work) -> dict[str, float]:
        time.sleep(data.seconds)  # noqa: ASYNC251
        return {"blocked": data.seconds}
