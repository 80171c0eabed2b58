"""Changes job records, as the only module of the gateway, and reads them within the store budget."""

import time
from collections.abc import Callable, Mapping, Sequence

from enginehouse.contracts.job import JobRecord
from enginehouse.gateway.ledger.mirror import record_of
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.outcome.decisions import Decision
from enginehouse.gateway.outcome.mirroring import Mirroring
from enginehouse.gateway.store_budget import StoreBudget
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.records import JobRecords, StoredRecord


class Records:
    """Reads and writes records for the gateway, each use within the store budget.

    Raises Unavailable if the engine's store does not answer in time. A record that cannot be read counts as missing and
    is overwritten when its job ends.
    """

    def __init__(
        self,
        sidecar: Sidecar,
        mirroring: Mirroring,
        budget: StoreBudget,
        *,
        margin_seconds: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep a record for `margin_seconds` after the last moment at which it may be needed."""
        self._sidecar = sidecar
        self._mirroring = mirroring
        self._budget = budget
        self._margin_seconds = margin_seconds
        self._clock = clock

    async def decide(self, row: JobRow, decision: Decision) -> JobRecord:
        """Apply `decision` to the record, mirror the record that then holds, and return it."""
        async with self._budget.spend():
            record = await self._of(row.engine).change(row.id, self._ttl_seconds(row), decision, over_unreadable=True)
        await self._mirroring.apply(row.engine, {row.id: record})
        return record

    async def restore(self, row: JobRow) -> None:
        """Write the final record of an ended job again, into a store that was restored from a backup."""
        async with self._budget.spend():
            records = self._of(row.engine)
            await records.restore(row.id, self._ttl_seconds(row), record_of(row), over_unreadable=True)

    async def empty(self, engine_id: str, rows: Sequence[JobRow]) -> None:
        """Take all content out of the final records of ended jobs. That they ended stays: events of them may still come."""
        stored = await self.read_many(engine_id, [row.id for row in rows])
        for row in (row for row in rows if row.id in stored):
            async with self._budget.spend():
                await self._of(engine_id).change(row.id, self._ttl_seconds(row), _emptied, over_unreadable=True)

    async def read_many(self, engine_id: str, job_ids: Sequence[str]) -> dict[str, StoredRecord]:
        """Return the records that exist and can be read, by job id."""
        async with self._budget.spend():
            return await self._of(engine_id).read_many(job_ids)

    async def mirror(self, engine_id: str, stored: Mapping[str, StoredRecord]) -> None:
        """Copy these records into the ledger."""
        await self._mirroring.apply(engine_id, {job_id: found.record for job_id, found in stored.items()})

    def _of(self, engine_id: str) -> JobRecords:
        return JobRecords(self._sidecar, engine_id)

    def _ttl_seconds(self, row: JobRow) -> int:
        return row.record_ttl_seconds(self._clock(), self._margin_seconds)


def _emptied(present: JobRecord | None) -> JobRecord | None:
    return JobRecord(status=present.status, attempt=present.attempt) if present else None
