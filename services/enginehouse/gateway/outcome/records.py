"""The one place where the gateway decides about a job's record."""

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

    Unavailable if the engine's store does not answer in time. A record that cannot be read has no say: it is written
    over when its job ends.
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
        """Let a record live `margin_seconds` longer than anything that may still need it."""
        self._sidecar = sidecar
        self._mirroring = mirroring
        self._budget = budget
        self._margin_seconds = margin_seconds
        self._clock = clock

    async def decide(self, row: JobRow, decision: Decision) -> JobRecord:
        """Let `decision` change the record, mirror whatever holds then, and return that."""
        async with self._budget.spend():
            record = await self._of(row.engine).change(row.id, self._ttl_seconds(row), decision, over_unreadable=True)
        await self._mirroring.apply(row.engine, {row.id: record})
        return record

    async def restore(self, row: JobRow) -> None:
        """Write again how a job ended, into a store that came back older than it was."""
        async with self._budget.spend():
            records = self._of(row.engine)
            await records.restore(row.id, self._ttl_seconds(row), record_of(row), over_unreadable=True)

    async def read_many(self, engine_id: str, job_ids: Sequence[str]) -> dict[str, StoredRecord]:
        """Return the records that exist and can be read, by job id."""
        async with self._budget.spend():
            return await self._of(engine_id).read_many(job_ids)

    async def mirror(self, engine_id: str, stored: Mapping[str, StoredRecord]) -> None:
        """Bring the ledger to what these records say."""
        await self._mirroring.apply(engine_id, {job_id: found.record for job_id, found in stored.items()})

    def _of(self, engine_id: str) -> JobRecords:
        return JobRecords(self._sidecar, engine_id)

    def _ttl_seconds(self, row: JobRow) -> int:
        return row.record_ttl_seconds(self._clock(), self._margin_seconds)
