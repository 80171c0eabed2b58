"""A short time for one engine's store to answer a part of the sweep, so that one that hangs keeps nobody else waiting."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from enginehouse.contracts.errors import Unavailable


@contextlib.asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Unavailable if what is done inside takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unavailable(f"its store does not answer within {seconds:g} s") from None
