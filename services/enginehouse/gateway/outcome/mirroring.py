"""Copies job records into ledger rows."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from enginehouse.contracts.job import JobRecord
from enginehouse.contracts.names import engine_of
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.mirror import Mirror, Mirrored
from enginehouse.gateway.outcome.consequences import Consequences
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.gather import Gather
from enginehouse.sidecar.records import JobRecords

_READ_MAX = 64
_CLOSE_SECONDS = 5.0


class Mirroring:
    """Reads records in bulk, updates their rows, and starts the consequences."""

    def __init__(self, sidecar: Sidecar, ledger: Ledger, consequences: Consequences) -> None:
        self._sidecar = sidecar
        self._ledger = ledger
        self._consequences = consequences
        self._reading: Gather[str, str, None] = Gather(self._read, at_most=_READ_MAX)
        """Gathers job ids by engine. A hint during a read causes another read, since the first may be too early."""

    async def mirror(self, engine_ids: Mapping[str, str]) -> None:
        """Mirror the records of these jobs, given with their engines. If some cannot be mirrored, raise the first error."""
        reads = [self._reading.put(engine_id, job_id) for job_id, engine_id in engine_ids.items()]
        for outcome in await asyncio.gather(*reads, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _read(self, engine_id: str, job_ids: Sequence[str]) -> list[None]:
        stored = await JobRecords(self._sidecar, engine_id).read_many(list(dict.fromkeys(job_ids)))
        await self.apply(engine_id, {job_id: found.record for job_id, found in stored.items()})
        return [None] * len(job_ids)

    async def apply(self, engine_id: str, records: Mapping[str, JobRecord]) -> None:
        """Mirror records that have just been read or written. If some cannot be, follow the others and raise the first error.

        Those of jobs that are not this engine's, as the ledger knows them, change nothing.
        """
        now = time.time()
        mirrored = await asyncio.gather(
            *(
                self._ledger.mirror(Mirror(job_id, record, now, engine_of(engine_id)))
                for job_id, record in records.items()
            ),
            return_exceptions=True,
        )
        await self._consequences.follow([item for item in mirrored if isinstance(item, Mirrored)])
        for item in mirrored:
            if isinstance(item, BaseException):
                raise item

    async def close(self) -> None:
        """Finish mirroring the records that are being read."""
        await self._reading.close(_CLOSE_SECONDS)
