"""Takes as long as its input says, for jobs that must exceed a time limit."""

import asyncio
from typing import Annotated

from pydantic import BaseModel, Field

from enginehouse.engine import Engine


class Nap(BaseModel):
    """How long the prediction takes."""

    seconds: Annotated[float, Field(ge=0, le=3_600)]


class Sleeps(Engine):
    """Answers {"slept": seconds} after that time."""

    async def predict(self, data: Nap) -> dict[str, float]:
        await asyncio.sleep(data.seconds)
        return {"slept": data.seconds}
