"""Deletes data past its time: results, inputs and objects, and much later the rows."""

import time
from collections.abc import Callable

from enginehouse.contracts.names import output_key
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.deletion import Forget
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.objects import Objects, is_jobs_own
from enginehouse.gateway.tenants.stored_bytes import StoredBytes

_AT_ONCE = 25
"""Rows of one step: a submit that arrives meanwhile waits for it."""
_STEPS_SECONDS = 0.5
"""Time for steps in one sweep, so that many rows that are due at once hold up no other part of the sweep."""
_HAND_OVERS = 100
"""Objects of later ones, which hardly any job has, and of jobs whose result was small are deleted by their age."""


def _own_objects(row: JobRow) -> list[str]:
    """Return the keys of a job's objects, with those that earlier hand-overs may have left."""
    keys = [key for key in (row.input_ref, row.output_ref) if key and is_jobs_own(key)]
    if row.output_ref and row.hand_overs > 1:
        keys += [output_key(row.tenant, row.id, number + 1) for number in range(min(row.hand_overs, _HAND_OVERS))]
    return keys


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
        """Delete what is due now, in small steps; what takes longer goes on in the next sweep."""
        now, until = self._clock(), time.monotonic() + _STEPS_SECONDS
        if await self._delete_payloads(now, until) and now >= self._next_clean_up:
            await self._clean_up(now, until)

    async def _delete_payloads(self, now: float, until: float) -> bool:
        """Delete inputs, outputs and objects of jobs whose result has expired; return whether all are done."""
        while rows := await self._ledger.read(read.past_result, now, _AT_ONCE):
            if self._objects:
                await self._objects.delete([key for row in rows for key in _own_objects(row)])
            await self._ledger.delete_payloads(tuple(row.id for row in rows))
            if time.monotonic() > until:
                return False
        return True

    async def _clean_up(self, now: float, until: float) -> None:
        """Delete old rows, then old objects."""
        while await self._ledger.forget(Forget(now - self._rows_kept_seconds, now, _AT_ONCE)):
            if time.monotonic() > until:
                return
        self._next_clean_up = now + self._clean_up_seconds
        await self._ledger.fold_counts()
        if self._objects:
            self._stored.begin_listing(now)
            self._stored.end_listing(*await self._objects.delete_old(now))
