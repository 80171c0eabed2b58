"""Ends the jobs of engines that were removed."""

import asyncio

import structlog

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.mirroring import Mirroring
from enginehouse.gateway.outcome.records import Records

log = structlog.get_logger()

_AT_ONCE = 500


class RemovedEngines:
    """Cancels the jobs of retired engines: by their records, or in the ledger alone where those are out of reach."""

    def __init__(self, ledger: Ledger, catalogue: Catalogue, records: Records, mirroring: Mirroring) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._records = records
        self._mirroring = mirroring

    async def end_jobs(self) -> None:
        """Cancel the unfinished jobs of retired engines with ENGINE_REMOVED."""
        retired = [
            engine.id
            for engine in self._catalogue
            if engine.state == EngineState.RETIRED and self._catalogue.behind(engine).state == EngineState.RETIRED
        ]
        reached = [engine_id for engine_id in retired if self._catalogue.can_reach(engine_id)]
        await asyncio.gather(*(self._end_by_records(engine_id) for engine_id in reached))
        if gone := [engine_id for engine_id in retired if engine_id not in reached]:
            await self._end_in_ledger(gone)

    async def _end_by_records(self, engine_id: str) -> None:
        """Cancel the jobs of an engine that is being removed. Its runner sees the records, and stops working on them."""
        try:
            tried = set[str]()
            while rows := await self._ledger.read(read.unfinished_of, [engine_id], _AT_ONCE):
                if tried.issuperset(row.id for row in rows):
                    return
                tried.update(row.id for row in rows)
                await asyncio.gather(*(self._records.decide(row, decisions.engine_removed) for row in rows))
        except EnginehouseError as error:
            log.warning(
                f"Jobs of {engine_id}, which is being removed, end later: {error}",
                action="removal_waits",
                engine_id=engine_id,
            )

    async def _end_in_ledger(self, engine_ids: list[str]) -> None:
        for row in await self._ledger.read(read.unfinished_of, engine_ids, _AT_ONCE):
            if record := _canceled(row):
                await self._mirroring.apply(row.engine, {row.id: record})


def _canceled(row: JobRow) -> JobRecord | None:
    return decisions.engine_removed(JobRecord(status=Status.QUEUED, attempt=row.attempts))
