"""Finds in the ledger what no event told: lost completions, vanished workers, clocks that ran out, room to fill."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import structlog
from sqlalchemy import Row

from enginehouse.contracts.engine import HEARTBEAT_SECONDS, EngineState, Heartbeat
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.gateway.engines.catalogue import Engines
from enginehouse.gateway.engines.transitions import States
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.queue import TakeBack
from enginehouse.gateway.objects import Objects, is_jobs_own
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.completions import Completions
from enginehouse.gateway.outcome.restored_store import Restore
from enginehouse.gateway.store_budget import in_time
from enginehouse.gateway.tenants.limits import Limits
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.records import JobRecords

log = structlog.get_logger()

LOST_AFTER_SECONDS = 8.0
"""A handed-over job that a worker with nothing to do has not got after this time is not going to arrive."""
OVERTAKEN_SECONDS = 15.0
"""A topic is first in, first out: a job is lost if one handed over this much later has begun."""
_HAND_OVERS_MAX = 20
_PATIENCE_DOUBLED_MAX = 4
_EXPIRE_AT_ONCE = 500
_PURGE_AT_ONCE = 500
_CLEAN_UP_SECONDS = 600.0
_ENGINE_SECONDS = 3.0
"""For one engine's store to answer a part of the sweep; what is left then waits for the next sweep, and nobody else does."""
_STORES_AT_ONCE = 64
"""So that a store's time is not spent on waiting for the others'."""


def _by_engine(rows: Iterable[Row[Any]]) -> dict[str, list[Row[Any]]]:
    of_engines: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        of_engines[row.engine].append(row)
    return of_engines


def is_lost(row: Row[Any], workers: list[Heartbeat], last_progress: float, now: float) -> bool:
    """Whether a handed-over job that nobody has claimed got lost on its way; that it waits long is no sign of it."""
    if any(row.id in worker.in_hand for worker in workers):
        return False
    # Lost again and again, it is the way that is broken: patience keeps its hand-overs from running out meanwhile.
    patience = 2 ** min(max(row.hand_overs - row.attempts - 1, 0), _PATIENCE_DOUBLED_MAX)
    for worker in workers:
        if worker.subscribed and worker.healthy and worker.idle_since is not None:
            waited = now - max(worker.idle_since.timestamp(), row.handed_over_at)
            if waited > LOST_AFTER_SECONDS * patience:
                return True
    return bool(row.handed_over_at + OVERTAKEN_SECONDS * patience < last_progress)


def has_it(record: JobRecord, job_id: str, workers: list[Heartbeat]) -> bool:
    """Whether the worker that a running record names lives and has the job, or may have taken it since it last said.

    A store that came back older than it was shows claims of jobs that their workers have long ended.
    """
    return any(
        worker.worker == record.worker
        and (job_id in worker.in_hand or record.started_at is None or record.started_at >= worker.at)
        for worker in workers
    )


class Sweep:
    """Looks through the ledger every few seconds."""

    def __init__(
        self,
        sidecar: Sidecar,
        ledger: Ledger,
        engines: Engines,
        states: States,
        dispatcher: Dispatcher,
        completions: Completions,
        objects: Objects | None,
        limits: Limits,
        restore: Restore,
        *,
        rows_kept_seconds: float,
    ) -> None:
        self._sidecar = sidecar
        self._ledger = ledger
        self._engines = engines
        self._states = states
        self._dispatcher = dispatcher
        self._completions = completions
        self._objects = objects
        self._limits = limits
        self.restore = restore
        self._rows_kept_seconds = rows_kept_seconds
        self._next_clean_up = 0.0
        self._room = asyncio.Semaphore(_STORES_AT_ONCE)
        self._missed: dict[str, dict[str, float]] = {}
        """Running jobs of each engine that no living worker has, and since when they were seen so at every look."""

    async def run(self, every_seconds: float) -> None:
        """Sweep for ever; one failure delays, and stops nothing."""
        while True:
            for part in (
                self.fill,
                self._states.catch_up,
                self.expire,
                self.restore.check,
                self.recover,
                self.end_removed,
                self.retain,
            ):
                try:
                    await part()
                except EnginehouseError as error:
                    log.warning(f"A part of the sweep waits: {error}", action="sweep_waits", part=part.__name__)
                except Exception:
                    log.exception("A part of the sweep failed", action="sweep_failed", part=part.__name__)
            await asyncio.sleep(every_seconds)

    async def fill(self) -> None:
        """Wake the dispatcher for every engine that has jobs waiting in the ledger."""
        self._dispatcher.backlog = await self._ledger.read(read.backlogs)
        for engine_id in self._dispatcher.backlog:
            self._dispatcher.wake(engine_id)
        self._limits.in_flight = await self._ledger.read(read.in_flight)

    async def expire(self) -> None:
        """End the queued jobs whose queue clock is over. An engine whose store is away keeps no other's from it."""
        now, away = time.time(), set[str]()
        while True:
            known_away = len(away)
            by_engine = _by_engine(await self._ledger.read(read.past_queue_deadline, now, _EXPIRE_AT_ONCE, tuple(away)))
            await asyncio.gather(*(self._expire(engine_id, rows, away) for engine_id, rows in by_engine.items()))
            if len(away) == known_away:
                return

    async def _expire(self, engine_id: str, rows: list[Row[Any]], away: set[str]) -> None:
        clock = asyncio.get_running_loop()
        enough = clock.time() + _ENGINE_SECONDS
        for row in rows:
            try:
                await self.decide(row, decisions.expire(row.queue_deadline - row.created_at, row.attempts))
            except EnginehouseError as error:
                log.warning(f"Jobs of {engine_id} cannot expire now: {error}", action="expire_waits")
                away.add(engine_id)
                return
            if clock.time() > enough:
                away.add(engine_id)
                return

    async def end_removed(self) -> None:
        """End the jobs of engines that are gone. Their records are out of reach, for their runners too."""
        gone = [engine.id for engine in self._engines if engine.state == EngineState.RETIRED]
        for row in await self._ledger.read(read.unfinished_of, gone, _EXPIRE_AT_ONCE) if gone else []:
            record = decisions.engine_removed(JobRecord(status=Status.QUEUED, attempt=row.attempts))
            if record:
                await self._completions.apply(row.engine, {row.id: record})

    async def retain(self) -> None:
        """Let go of what is past its time: results, inputs, objects, and much later the rows."""
        now = time.time()
        while rows := await self._ledger.read(read.past_result, now, _PURGE_AT_ONCE):
            if self._objects:
                await self._objects.delete(
                    [key for row in rows for key in (row.input_ref, row.output_ref) if is_jobs_own(key)]
                )
            await self._ledger.purge(tuple(row.id for row in rows))
        if now >= self._next_clean_up:
            self._next_clean_up = now + min(_CLEAN_UP_SECONDS, self._rows_kept_seconds / 2)
            await self._ledger.forget(now - self._rows_kept_seconds)
            if self._objects:
                await self._objects.delete_old(now)

    async def decide(self, row: Row[Any], decision: decisions.Decision) -> JobRecord:
        """Let the record decide, then mirror whatever holds. A record that cannot be read has no say."""
        records = JobRecords(self._sidecar, row.engine)
        ttl_seconds = self._dispatcher.record_ttl_seconds(row._asdict(), time.time())
        async with self._room, in_time(_ENGINE_SECONDS):
            record = await records.change(row.id, ttl_seconds, decision, over_unreadable=True)
        await self._completions.apply(row.engine, {row.id: record})
        return record

    async def recover(self) -> None:
        """Compare everything handed over with its record, and hand over again what got lost."""
        now = time.time()
        by_engine = _by_engine(await self._ledger.read(read.handed_over, now - 2))
        await asyncio.gather(*(self._recover(engine_id, rows, now) for engine_id, rows in by_engine.items()))

    async def _recover(self, engine_id: str, rows: list[Row[Any]], now: float) -> None:
        engine = self._engines.get(engine_id)
        if engine is None:
            return
        try:
            async with self._room, in_time(_ENGINE_SECONDS):
                stored = await JobRecords(self._sidecar, engine_id).read_many([row.id for row in rows])
                workers = await self._engines.read_workers(engine)
            await self._completions.apply(engine_id, {job_id: found.record for job_id, found in stored.items()})
        except EnginehouseError as error:
            log.warning(f"The jobs of {engine_id} cannot be checked now: {error}", action="recover_waits")
            return
        missed_before, missed = self._missed.get(engine_id, {}), {}
        progress = self._completions.last_progress.get(engine_id, 0)
        lost = []
        for row in rows:
            record = stored[row.id].record if row.id in stored else None
            if record and (record.status.is_final or record.attempt > row.attempts):
                continue  # Mirrored just now.
            if record and record.status is Status.RUNNING and row.status == Status.RUNNING.value:
                # While no worker is seen at all, nobody could take it; a store that was away shows them one by one.
                if workers and not has_it(record, row.id, workers):
                    missed[row.id] = missed_before.get(row.id, now)
                    if now - missed[row.id] > HEARTBEAT_SECONDS:
                        lost.append(row)
            elif is_lost(row, workers, progress, now):
                # Nobody has begun this hand-over; a record of an earlier attempt says nothing about it.
                lost.append(row)
        self._missed[engine_id] = missed
        if lost:
            await self._hand_over_again(engine_id, lost, now)

    async def _hand_over_again(self, engine_id: str, lost: list[Row[Any]], now: float) -> None:
        hopeless = [row for row in lost if row.hand_overs >= _HAND_OVERS_MAX]
        for row in hopeless:
            try:
                await self.decide(row, decisions.give_up(row.hand_overs))
            except EnginehouseError as error:
                log.warning(f"Job {row.id} cannot be given up now: {error}", action="give_up_waits", job=row.id)
        again = [row.id for row in lost if row.hand_overs < _HAND_OVERS_MAX]
        if again:
            log.warning(
                f"{len(again)} jobs of {engine_id} are handed over again: their worker vanished, or they got lost",
                action="handed_over_again",
                engine=engine_id,
                jobs=again[:20],
            )
            await self._ledger.take_back(TakeBack(tuple(again), None, now))
            self._dispatcher.wake(engine_id)
