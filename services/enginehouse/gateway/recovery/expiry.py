"""Ends queued jobs whose time in the queue is over."""

import asyncio
import time
from collections.abc import Callable

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobRow, by_engine
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.records import Records

log = structlog.get_logger()

_AT_ONCE = 500


class Expiry:
    """Expires jobs, all engines side by side: an engine whose store does not answer does not delay the others."""

    def __init__(
        self, ledger: Ledger, records: Records, *, engine_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Spend at most `engine_seconds` on one engine; the jobs that are left wait for the next sweep."""
        self._ledger = ledger
        self._records = records
        self._engine_seconds = engine_seconds
        self._clock = clock

    async def expire(self) -> None:
        """Expire the jobs that are due, except those of engines that take too long or do not answer."""
        now, skipped = self._clock(), set[str]()
        while True:
            skipped_before = len(skipped)
            rows = await self._ledger.read(read.past_queue_deadline, now, _AT_ONCE, tuple(skipped))
            engines = by_engine(rows)
            done = await asyncio.gather(*(self._expire(engine_id, rows) for engine_id, rows in engines.items()))
            skipped |= {engine_id for engine_id, all_done in zip(engines, done, strict=True) if not all_done}
            if len(skipped) == skipped_before:
                return

    async def _expire(self, engine_id: str, rows: list[JobRow]) -> bool:
        """Expire jobs of one engine; return False if the rest must wait for the next sweep."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._engine_seconds
        for row in rows:
            try:
                await self._records.decide(row, decisions.expire(row.queue_deadline - row.created_at, row.attempts))
            except EnginehouseError as error:
                log.warning(
                    f"Jobs of {engine_id} cannot expire now: {error}", action="expire_waits", engine_id=engine_id
                )
                return False
            if loop.time() > deadline:
                return False
        return True
