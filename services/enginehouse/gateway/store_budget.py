"""Bounds how long one engine's store may hold up the sweep or a caller."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from enginehouse.contracts.errors import Unavailable


class StoreBudget:
    """Gives each use of an engine's store `seconds`, so that a store that hangs does not hold up other engines."""

    def __init__(self, seconds: float, *, at_once: int | None = None) -> None:
        """Use at most `at_once` stores at the same time; None sets no limit."""
        self.seconds = seconds
        self._places = asyncio.Semaphore(at_once) if at_once else contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def spend(self) -> AsyncIterator[None]:
        """Wait for a place, then raise Unavailable if the block takes longer than the budget."""
        async with self._places:
            try:
                async with asyncio.timeout(self.seconds):
                    yield
            except TimeoutError:
                raise Unavailable(f"its store does not answer within {self.seconds:g} s") from None
