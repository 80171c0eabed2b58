"""Answers with the number of inputs in the call. A call takes as long for one input as for many, as with a model."""

import asyncio
from typing import Annotated

from pydantic import BaseModel, Field

from enginehouse.engine import Engine


class Item(BaseModel):
    """The value to return, and how long a call with it takes."""

    value: int
    seconds: Annotated[float, Field(ge=0, le=60)] = 0.02


class Batches(Engine):
    """Answers {"value": its own, "together": number of inputs in the call}."""

    async def predict(self, data: Item) -> dict[str, int]:
        return (await self.predict_batch([data]))[0]

    async def predict_batch(self, data: list[Item]) -> list[dict[str, int]]:
        await asyncio.sleep(max(item.seconds for item in data))
        return [{"value": item.value, "together": len(data)} for item in data]
