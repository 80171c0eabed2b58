"""Deletes data past its time: results, inputs and objects, and much later the rows."""

import time
from collections.abc import Callable

from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.objects import Objects, is_jobs_own
from enginehouse.gateway.tenants.stored_bytes import StoredBytes

_AT_ONCE = 500


class Retention:
    """Deletes data in two steps: first the payload of a job, later its row."""

    def __init__(
        self,
        ledger: Ledger,
        objects: Objects | None,
        stored: StoredBytes,
        *,
        rows_kept_seconds: float,
        clean_up_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep a job's row for `rows_kept_seconds` after its result was deleted: callers get 410 in that time.

        Search for old rows and objects every `clean_up_seconds`.
        """
        self._ledger = ledger
        self._objects = objects
        self._stored = stored
        self._rows_kept_seconds = rows_kept_seconds
        self._clean_up_seconds = min(clean_up_seconds, rows_kept_seconds / 2)
        self._clock = clock
        self._next_clean_up = 0.0

    async def delete_due(self) -> None:
        """Delete everything that is due now."""
        now = self._clock()
        while rows := await self._ledger.read(read.past_result, now, _AT_ONCE):
            if self._objects:
                keys = (key for row in rows for key in (row.input_ref, row.output_ref))
                await self._objects.delete([key for key in keys if key and is_jobs_own(key)])
            await self._ledger.delete_payloads(tuple(row.id for row in rows))
        if now >= self._next_clean_up:
            self._next_clean_up = now + self._clean_up_seconds
            await self._ledger.forget(now - self._rows_kept_seconds)
            if self._objects:
                self._stored.begin_listing(now)
                self._stored.end_listing(await self._objects.delete_old(now))
