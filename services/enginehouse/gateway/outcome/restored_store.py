"""Writes final records again after a store was restored from a backup; otherwise their jobs would run again."""

import asyncio

import structlog

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.transitions import Transitions
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.outcome.end_samples import EndSamples
from enginehouse.gateway.outcome.records import Records

log = structlog.get_logger()

_PAGE = 200
_AT_ONCE = 16


class RestoredStores:
    """Looks for sampled records. If one is gone, writes all final records that the ledger has and the store lacks."""

    def __init__(
        self, ledger: Ledger, catalogue: Catalogue, transitions: Transitions, records: Records, samples: EndSamples
    ) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._transitions = transitions
        self._records = records
        self._samples = samples
        self._has_loaded = False

    async def check(self) -> None:
        """Look for the sampled records of every engine. A sample that was found is dropped, except the newest."""
        if not self._has_loaded:
            # A store may have been restored while no gateway ran.
            for job_id, engine_id in await self._ledger.read(read.last_ended, _PAGE):
                self._samples.of_engine[engine_id].insert(0, job_id)
            self._has_loaded = True
        engine_ids = [engine_id for engine_id, samples in self._samples.of_engine.items() if samples]
        await asyncio.gather(*(self._check(engine_id) for engine_id in engine_ids))

    async def _check(self, engine_id: str) -> None:
        engine = self._catalogue.get(engine_id)
        if engine is None or engine.state == EngineState.RETIRED:
            self._samples.of_engine[engine_id].clear()
            return
        samples = list(self._samples.of_engine[engine_id])
        try:
            missing = await self._missing(engine_id, samples)
            if missing:
                if engine.state == EngineState.QUARANTINED:
                    await self._transitions.write_control(engine)
                await self._write_again(engine_id, min(missing))
        except EnginehouseError as error:
            log.warning(
                f"The store of {engine_id} cannot be checked for lost records now: {error}",
                action="restore_waits",
                engine_id=engine_id,
            )
            return
        self._samples.of_engine[engine_id] = self._samples.of_engine[engine_id][len(samples) :] or samples[-1:]

    async def _missing(self, engine_id: str, job_ids: list[str]) -> list[str]:
        found = await self._records.read_many(engine_id, job_ids)
        return [job_id for job_id in job_ids if job_id not in found or not found[job_id].record.status.is_final]

    async def _write_again(self, engine_id: str, oldest: str) -> None:
        """Write lost records, from the newest job back to a complete page that is older than `oldest`."""
        cursor, written, limit = None, 0, asyncio.Semaphore(_AT_ONCE)

        async def write(job_id: str) -> None:
            async with limit:
                row = await self._ledger.read(read.job, job_id)
                if row is not None:
                    await self._records.restore(row)

        while page := await self._ledger.read(read.ended_of, engine_id, cursor, _PAGE):
            missing = await self._missing(engine_id, page)
            await asyncio.gather(*(write(job_id) for job_id in missing))
            written += len(missing)
            if not missing and page[0] < oldest:
                break
            cursor = page[-1]
        if written:
            log.warning(
                f"The store of {engine_id} was restored from a backup: {written} lost final records were written again",
                action="restored",
                engine_id=engine_id,
                jobs=written,
            )
