"""Writes again how jobs ended, where a store has come back older than it was: else who gets them again runs them again."""

import asyncio
import time
from collections import defaultdict
from typing import Any

import structlog
from sqlalchemy import Row

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import CONTROL_KEY, results_component
from enginehouse.gateway.engines.catalogue import Engines
from enginehouse.gateway.engines.transitions import STOPPED
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.mirror import record_of
from enginehouse.gateway.store_budget import in_time
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.records import JobRecords

log = structlog.get_logger()

_SAMPLE_SECONDS = 0.1
"""One end in so much time is looked for: what a store loses, it loses from a moment on."""
_SAMPLES_MAX = 100
_PAGE = 200
_AT_ONCE = 16
_LOOK_SECONDS = 3.0
"""For a store to show the samples: the sweep waits for the slowest, and with it all other engines."""
_STORES_AT_ONCE = 64


class Restore:
    """Remembers a sample of the ends that records showed; one that is gone tells that the store went back."""

    def __init__(self, sidecar: Sidecar, ledger: Ledger, engines: Engines, dispatcher: Dispatcher) -> None:
        self._sidecar = sidecar
        self._ledger = ledger
        self._engines = engines
        self._dispatcher = dispatcher
        self._samples: dict[str, list[str]] = defaultdict(list)
        self._sampled_at: dict[str, float] = {}
        self._begun = False
        self._room = asyncio.Semaphore(_STORES_AT_ONCE)

    def ended(self, engine_id: str, job_id: str) -> None:
        """A record has just shown the end of a job."""
        now, samples = time.monotonic(), self._samples[engine_id]
        if now - self._sampled_at.get(engine_id, 0) >= _SAMPLE_SECONDS and len(samples) < _SAMPLES_MAX:
            self._sampled_at[engine_id] = now
            samples.append(job_id)

    async def check(self) -> None:
        """Look for the samples of every engine. What was found is looked for no more, but for the last one."""
        if not self._begun:
            # A store may have gone back while no gateway ran.
            for row in await self._ledger.read(read.last_ended, _PAGE):
                self._samples[row.engine].insert(0, row.id)
            self._begun = True
        await asyncio.gather(*(self._check(engine_id) for engine_id, samples in self._samples.items() if samples))

    async def _check(self, engine_id: str) -> None:
        engine = self._engines.get(engine_id)
        if engine is None or engine.state == EngineState.RETIRED:
            self._samples[engine_id].clear()
            return
        samples = list(self._samples[engine_id])
        records = JobRecords(self._sidecar, engine_id)
        try:
            async with self._room, in_time(_LOOK_SECONDS):
                missing = await self._missing(records, samples)
            if missing and engine.state == EngineState.QUARANTINED:
                await self._sidecar.put(results_component(engine_id), CONTROL_KEY, STOPPED)
            if missing:
                await self._write_again(engine_id, records, min(missing))
        except EnginehouseError as error:
            log.warning(f"Whether {engine_id} has all its ends is not known: {error}", action="restore_waits")
            return
        self._samples[engine_id] = self._samples[engine_id][len(samples) :] or samples[-1:]

    @staticmethod
    async def _missing(records: JobRecords, job_ids: list[str]) -> list[str]:
        found = await records.read_many(job_ids)
        return [job_id for job_id in job_ids if job_id not in found or not found[job_id].record.status.is_final]

    async def _write_again(self, engine_id: str, records: JobRecords, oldest: str) -> None:
        """From the newest job back, until a whole page older than `oldest` lacks nothing."""
        cursor, written = None, 0
        while page := await self._ledger.read(read.ended_of, engine_id, cursor, _PAGE):
            missing = await self._missing(records, page)
            limit = asyncio.Semaphore(_AT_ONCE)

            async def write(job_id: str, limit: asyncio.Semaphore = limit) -> None:
                async with limit:
                    row = await self._ledger.read(read.job, job_id)
                    if row is not None:
                        await self._write(records, row)

            await asyncio.gather(*(write(job_id) for job_id in missing))
            written += len(missing)
            if not missing and page[0] < oldest:
                break
            cursor = page[-1]
        if written:
            log.warning(
                f"The store of {engine_id} came back older than it was: {written} ends are written again",
                action="restored",
                engine=engine_id,
                jobs=written,
            )

    async def _write(self, records: JobRecords, row: Row[Any]) -> None:
        ttl_seconds = self._dispatcher.record_ttl_seconds(row._asdict(), time.time())
        await records.restore(row.id, ttl_seconds, record_of(row), over_unreadable=True)
