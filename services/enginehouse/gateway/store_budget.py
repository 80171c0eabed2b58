"""Bounds how long one engine's store may hold up work that looks at the stores of many engines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from enginehouse.contracts.errors import Unavailable

_STORES_AT_ONCE = 64
"""So that no store's time is spent on waiting for the others."""


class StoreBudget:
    """Gives each use of an engine's store `seconds`, so that one that hangs keeps no other engine waiting."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._places = asyncio.Semaphore(_STORES_AT_ONCE)

    @contextlib.asynccontextmanager
    async def spend(self) -> AsyncIterator[None]:
        """Wait for a place, then raise Unavailable if the block takes longer than the budget."""
        async with self._places:
            try:
                async with asyncio.timeout(self.seconds):
                    yield
            except TimeoutError:
                raise Unavailable(f"its store does not answer within {self.seconds:g} s") from None
