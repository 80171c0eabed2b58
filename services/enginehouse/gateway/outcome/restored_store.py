"""Writes final records again after a store was restored from a backup; otherwise their jobs would run again."""

import asyncio

import structlog

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.transitions import Transitions
from enginehouse.gateway.ledger import newest, read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.outcome.end_samples import EndSamples
from enginehouse.gateway.outcome.records import Records
from enginehouse.in_turn import InTurn

log = structlog.get_logger()

_PAGE = 200
_AT_ONCE = 16
_STILL_AT_ONCE = 4
"""Engines without new samples whose stores one check looks at. Stores are mostly one server, which is restored as a whole."""


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
        self._found: dict[str, str] = {}
        """The newest sample of each engine that was found in its store."""
        self._still = InTurn(_STILL_AT_ONCE)

    async def check(self) -> None:
        """Look for sampled records: all new ones, and those of a few engines without, in turn. If one is gone, look for all.

        A sample that was found is dropped, except the newest.
        """
        if not self._has_loaded:
            # A store may have been restored while no gateway ran.
            for job_id, engine_id in await self._ledger.read(read.last_ended, _PAGE):
                self._samples.of_engine[engine_id].insert(0, job_id)
            self._has_loaded = True
        sampled = {engine_id: samples for engine_id, samples in self._samples.of_engine.items() if samples}
        still = [engine_id for engine_id, samples in sampled.items() if samples == [self._found.get(engine_id)]]
        due = sampled.keys() - still | set(self._still.pick(still))
        if any(await asyncio.gather(*(self._check(engine_id) for engine_id in due))):
            await asyncio.gather(*(self._check(engine_id) for engine_id in sampled.keys() - due))

    async def _check(self, engine_id: str) -> bool:
        """Look for an engine's samples, and write what is lost again; return whether something was."""
        engine = self._catalogue.get(engine_id)
        if engine is None or engine.state == EngineState.RETIRED:
            self._samples.of_engine[engine_id].clear()
            self._found.pop(engine_id, None)
            return False
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
            return False
        self._found[engine_id] = samples[-1]
        self._samples.of_engine[engine_id] = self._samples.of_engine[engine_id][len(samples) :] or samples[-1:]
        return bool(missing)

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

        while page := await self._ledger.read(newest.ended_of, engine_id, cursor, _PAGE):
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
