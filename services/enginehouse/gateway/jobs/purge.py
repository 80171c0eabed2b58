"""Cancels all jobs that wait for an engine."""

import asyncio

from enginehouse.contracts.errors import Conflict
from enginehouse.contracts.job import Status
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.records import Records

_AT_ONCE = 100


class Purge:
    """Empties an engine's queue, for an operator."""

    def __init__(self, catalogue: Catalogue, ledger: Ledger, records: Records) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._records = records

    async def purge(self, engine_id: str) -> int:
        """Cancel the jobs that wait for an engine; return how many. Running jobs go on."""
        engine = self._catalogue.resolve_any(engine_id)
        seen = set[str]()
        canceled = 0
        while rows := [row for row in await self._ledger.read(read.waiting, engine.id, _AT_ONCE) if row.id not in seen]:
            seen.update(row.id for row in rows)
            canceled += sum(await asyncio.gather(*(self._cancel(row) for row in rows)))
        return canceled

    async def _cancel(self, row: JobRow) -> bool:
        try:
            return (await self._records.decide(row, decisions.purge)).status is Status.CANCELED
        except Conflict:
            return False
