"""Ends the jobs of engines that were removed."""

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.mirroring import Mirroring

_AT_ONCE = 500


class RemovedEngines:
    """Cancels jobs in the ledger alone: the gateway and the runners can no longer reach their records."""

    def __init__(self, ledger: Ledger, catalogue: Catalogue, mirroring: Mirroring) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._mirroring = mirroring

    async def end_jobs(self) -> None:
        """Cancel the unfinished jobs of retired engines with ENGINE_REMOVED."""
        retired = [
            engine.id
            for engine in self._catalogue
            if engine.state == EngineState.RETIRED and self._catalogue.behind(engine).state == EngineState.RETIRED
        ]
        if not retired:
            return
        for row in await self._ledger.read(read.unfinished_of, retired, _AT_ONCE):
            record = decisions.engine_removed(JobRecord(status=Status.QUEUED, attempt=row.attempts))
            if record:
                await self._mirroring.apply(row.engine, {row.id: record})
