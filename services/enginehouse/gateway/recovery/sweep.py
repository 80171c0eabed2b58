"""Runs the parts of the sweep, which search the ledger every few seconds for work that no event announces."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from enginehouse.contracts.errors import EnginehouseError

log = structlog.get_logger()

Part = Callable[[], Awaitable[None]]


class Sweep:
    """Runs its parts one after the other, again and again."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        """Take the parts by name, in the order in which they run."""
        self._parts = parts

    async def once(self) -> None:
        """Run every part. If a part fails, log that and run the next one."""
        for name, part in self._parts.items():
            try:
                await part()
            except EnginehouseError as error:
                log.warning(
                    f"The sweep's part '{name}' waits for the next sweep: {error}", action="sweep_waits", part=name
                )
            except Exception:
                log.exception(f"The sweep's part '{name}' failed", action="sweep_failed", part=name)

    async def run(self, every_seconds: float) -> None:
        """Sweep again and again, for ever."""
        while True:
            await self.once()
            await asyncio.sleep(every_seconds)
