"""Finds jobs that were handed over and got lost, or whose worker vanished, and hands them over again."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import structlog

from enginehouse.contracts.engine import HEARTBEAT_SECONDS, EngineState, Heartbeat
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobRecord, Status, StatusReason
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobRow, by_engine
from enginehouse.gateway.ledger.windows import Requeue
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.consequences import Consequences
from enginehouse.gateway.outcome.records import Records
from enginehouse.in_turn import InTurn
from enginehouse.sidecar.records import StoredRecord

log = structlog.get_logger()

LOST_AFTER_SECONDS = 8.0
"""A handed-over job is lost if a worker has been idle for this time and has not received it."""
OVERTAKEN_SECONDS = 15.0
"""A job is lost if another job that was handed over this much later has begun: topics are first in, first out."""
_LEFT_PAUSES_SECONDS = (0.0, 1.5)
"""Looks for what a worker left: at once, and again, because its sidecar may have been slow to leave the topic."""
_RINSED_SECONDS = 0.3
_YOUNG_SECONDS = 2.0
"""Jobs are not checked for this time after their hand-over."""
_WORKERS_SEEN_SECONDS = 10.0
_LOSSES_MAX = 20
"""So often a job may get lost. A hand-over that a runner ended by handing the job back is none."""
_PATIENCE_DOUBLED_MAX = 4
_LOGGED_MAX = 20
_WITHOUT_WORKERS_AT_ONCE = 4
"""Engines without workers whose jobs one sweep looks at: without a worker hardly anything can happen to them."""


def is_lost(row: JobRow, workers: Sequence[Heartbeat], last_begun: float, now: float) -> bool:
    """Say whether a handed-over job that no worker has claimed got lost. A long wait alone proves nothing.

    `last_begun` is the latest moment of a hand-over among the jobs that the engine has begun.
    """
    if any(row.id in worker.in_hand for worker in workers):
        return False
    # A job that is lost repeatedly shows that its way is broken. Doubling the patience each time saves its hand-overs
    # until the way is mended.
    patience = 2.0 ** min(row.losses, _PATIENCE_DOUBLED_MAX)
    handed_over_at = row.handed_over_at or 0
    for worker in workers:
        if worker.subscribed and worker.healthy and worker.idle_since is not None:
            waited = now - max(worker.idle_since.timestamp(), handed_over_at)
            if waited > LOST_AFTER_SECONDS * patience:
                return True
    return handed_over_at + OVERTAKEN_SECONDS * patience < last_begun


def still_runs(record: JobRecord, job_id: str, workers: Sequence[Heartbeat]) -> bool:
    """Say whether the worker named in a running record lives and has the job, or may have it since its last heartbeat.

    A living worker is not enough: a restored store shows claims of jobs that their workers ended long ago.
    """
    return any(
        worker.worker == record.worker
        and (job_id in worker.in_hand or record.started_at is None or record.started_at >= worker.at)
        for worker in workers
    )


def _says_queued(record: JobRecord, row: JobRow) -> bool:
    """Say whether a record is older than the hand-over in the row: a runner has handed that attempt back, or the one before."""
    return record.attempt < row.attempts or (record.status is Status.QUEUED and record.attempt <= row.attempts)


class LostJobs:
    """Compares every job that is handed over with its record and its engine's workers."""

    def __init__(
        self,
        ledger: Ledger,
        catalogue: Catalogue,
        dispatcher: Dispatcher,
        records: Records,
        consequences: Consequences,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._dispatcher = dispatcher
        self._records = records
        self._consequences = consequences
        self._clock = clock
        self._orphaned: dict[str, dict[str, float]] = {}
        """Running jobs of each engine that no living worker has, and since when every look has shown that."""
        self._without_workers = InTurn(_WITHOUT_WORKERS_AT_ONCE)

    async def recover(self) -> None:
        """Mirror the records of handed-over jobs, and hand over the lost ones again."""
        now = self._clock()
        looked_at = self._looked_at(await self._ledger.read(read.engines_in_hand))
        rows = await self._ledger.read(read.handed_over, looked_at, now - _YOUNG_SECONDS) if looked_at else []
        of_engines = by_engine(rows)
        await asyncio.gather(
            *(self._recover(engine_id, rows, now) for engine_id, rows in of_engines.items()),
            *(self._see_workers(engine_id) for engine_id in looked_at if engine_id not in of_engines),
        )

    def _looked_at(self, in_hand: Sequence[str]) -> list[str]:
        """Return the engines to look at: those that may have workers, and a few of the others, in turn."""
        engines = [engine for engine_id in in_hand if (engine := self._catalogue.get(engine_id))]
        without = [engine.id for engine in engines if engine.workers_read_at and not engine.workers]
        return list({engine.id for engine in engines}.difference(without)) + self._without_workers.pick(without)

    async def _see_workers(self, engine_id: str) -> None:
        """Look at the workers of a busy engine now and then: how many jobs it gets at once depends on them.

        A worker tells one gateway that it has come. The others see it here, as does one that was started again.
        """
        engine = self._catalogue.get(engine_id)
        if engine and time.monotonic() - engine.workers_read_at >= _WORKERS_SEEN_SECONDS:
            with contextlib.suppress(EnginehouseError):
                await self._catalogue.read_workers(engine)

    async def worker_left(self, engine_id: str) -> None:
        """Hand over again the jobs that a worker, which takes no more, may have left in its sidecar."""
        engine = self._catalogue.get(engine_id)
        for pause in _LEFT_PAUSES_SECONDS:
            await asyncio.sleep(pause)
            if engine is None or engine.state is EngineState.RETIRED:
                return  # Its topic is about to be deleted, or was.
            try:
                await self._dispatcher.rinse(engine_id)
                await asyncio.sleep(_RINSED_SECONDS)
                await self._hand_over_left(engine, self._clock() - _RINSED_SECONDS)
            except EnginehouseError as error:
                log.warning(
                    f"The jobs that a worker of {engine_id} may have left are found later: {error}",
                    action="leave_waits",
                    engine_id=engine_id,
                )

    async def _hand_over_left(self, engine: KnownEngine, until: float) -> None:
        """Hand over again what was handed over until then and no worker has.

        What the worker runs is claimed, and its last heartbeat names what waits in it. A job that the only other worker
        has just taken is delivered to it a second time, and joins itself there. Of several others one may have taken it
        since its heartbeat, and another could run it as well: such a job is left to the sweep.
        """
        rows = await self._ledger.read(read.handed_over, [engine.id], until)
        stored, workers = await self._look(engine, rows)
        others = [worker for worker in workers if worker.subscribed]
        left = [
            row.id
            for row in rows
            if row.status is Status.QUEUED
            and (row.id not in stored or _says_queued(stored[row.id].record, row))
            and not any(row.id in worker.in_hand for worker in workers)
            and (len(others) < 2 or all((row.handed_over_at or 0) < worker.at.timestamp() for worker in others))
        ]
        if left:
            log.info(
                f"{len(left)} jobs of {engine.id} are handed over again: a worker left",
                action="handed_over_after_leave",
                engine_id=engine.id,
                job_ids=left[:_LOGGED_MAX],
            )
            await self._ledger.requeue(Requeue(tuple(left), StatusReason.WAITING_FOR_WORKER, until))
            self._dispatcher.wake(engine.id)

    async def _recover(self, engine_id: str, rows: list[JobRow], now: float) -> None:
        engine = self._catalogue.get(engine_id)
        if engine is None:
            return
        try:
            stored, workers = await self._look(engine, rows)
        except EnginehouseError as error:
            log.warning(
                f"The jobs of {engine_id} cannot be checked now: {error}", action="recover_waits", engine_id=engine_id
            )
            return
        lost = self._lost(engine_id, rows, stored, workers, now)
        if lost:
            await self._hand_over_again(engine_id, lost, now)

    async def _look(self, engine: KnownEngine, rows: list[JobRow]) -> tuple[dict[str, StoredRecord], list[Heartbeat]]:
        """Read the records of jobs and the heartbeats of their engine's workers; mirror the records."""
        stored = await self._records.read_many(engine.id, [row.id for row in rows])
        workers = await self._catalogue.read_workers(engine)
        await self._records.mirror(engine.id, stored)
        return stored, workers

    def _lost(
        self,
        engine_id: str,
        rows: list[JobRow],
        stored: dict[str, StoredRecord],
        workers: list[Heartbeat],
        now: float,
    ) -> list[JobRow]:
        before, orphaned = self._orphaned.get(engine_id, {}), dict[str, float]()
        last_begun = self._consequences.last_begun.get(engine_id, 0)
        lost = []
        for row in rows:
            record = stored[row.id].record if row.id in stored else None
            if record and (record.status.is_final or record.attempt > row.attempts):
                continue  # This record was newer than the row and has just been mirrored.
            if record and record.status is Status.RUNNING and row.status is Status.RUNNING:
                # While no worker is seen, none could take the job. A store that was away shows workers one by one.
                if workers and not still_runs(record, row.id, workers):
                    orphaned[row.id] = before.get(row.id, now)
                    if now - orphaned[row.id] > HEARTBEAT_SECONDS:
                        lost.append(row)
            elif is_lost(row, workers, last_begun, now):
                # There is no record of this hand-over's attempt: an older record says nothing about it.
                lost.append(row)
        self._orphaned[engine_id] = orphaned
        return lost

    async def _hand_over_again(self, engine_id: str, lost: list[JobRow], now: float) -> None:
        for row in lost:
            if row.losses + 1 >= _LOSSES_MAX:
                await self._give_up(row)
        again = [row.id for row in lost if row.losses + 1 < _LOSSES_MAX]
        if again:
            log.warning(
                f"{len(again)} jobs of {engine_id} are handed over again: their worker vanished, or they got lost",
                action="handed_over_again",
                engine_id=engine_id,
                job_ids=again[:_LOGGED_MAX],
            )
            await self._ledger.requeue(Requeue(tuple(again), None, now))
            self._dispatcher.wake(engine_id)

    async def _give_up(self, row: JobRow) -> None:
        try:
            await self._records.decide(row, decisions.give_up(row.losses + 1))
        except EnginehouseError as error:
            log.warning(
                f"Job {row.id} of {row.engine} cannot be given up now: {error}",
                action="give_up_waits",
                job_id=row.id,
                engine_id=row.engine,
            )
