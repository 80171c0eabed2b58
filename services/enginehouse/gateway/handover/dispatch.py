"""Publishes jobs on their engines' topics: as many as an engine's window has room for, in fair order."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import structlog

from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import StatusReason
from enginehouse.contracts.names import GATEWAY_JOBS_COMPONENT, job_topic
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.handover.backlog import Backlog
from enginehouse.gateway.handover.grouping import Grouping, divide, room_to_fill
from enginehouse.gateway.handover.job_event import JobEvents
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.ledger.windows import FillWindow, Requeue
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.gather import Gather
from enginehouse.turns import Turns

log = structlog.get_logger()

_BATCH_MAX = 100
_CLOSE_SECONDS = 5.0


class Dispatcher:
    """Publishes jobs that the ledger has marked as handed over, and fills windows."""

    def __init__(
        self,
        sidecar: Sidecar,
        ledger: Ledger,
        catalogue: Catalogue,
        events: JobEvents,
        *,
        weights: Callable[[], Mapping[str, float]],
        broker_retry_seconds: float,
    ) -> None:
        """Take `weights` for the weights of the tenants that have another one than 1.

        After a failed hand-over, wait `broker_retry_seconds` before the next one to the same engine.
        """
        self._sidecar = sidecar
        self._ledger = ledger
        self._catalogue = catalogue
        self._events = events
        self._weights = weights
        self._broker_retry_seconds = broker_retry_seconds
        self._publishing: Gather[str, JobRow, None] = Gather(self._publish, at_most=_BATCH_MAX)
        self._filling: set[str] = set()
        self._woken: set[str] = set()
        """Engines that were woken while their window was being filled: it is filled once more."""
        self._broken_until: dict[str, float] = {}
        self._background = Background()
        self._turns: defaultdict[str, Turns] = defaultdict(Turns)
        """The tenants' turns at each engine. Each gateway counts its own, so each gives every tenant its turns."""
        self.backlog, self.grouping = Backlog(), Grouping()

    def window(self, engine_id: str) -> int:
        """Return the engine's window; 0 while hand-overs to it fail, so that its jobs stay in the ledger."""
        if self._broken_until.get(engine_id, 0) > time.monotonic():
            return 0
        return self._catalogue.window(engine_id)

    def send(self, row: JobRow) -> None:
        """Begin to publish a job that the ledger has just marked as handed over."""
        self._publishing.put(row.engine, row)

    def wake(self, engine_id: str) -> None:
        """Begin to fill an engine's window, because it may have room or a new job."""
        if engine_id in self._filling:
            self._woken.add(engine_id)
        else:
            self._filling.add(engine_id)
            self._background.start(self._fill(engine_id))

    def note_waiting(self, row: JobRow) -> None:
        """Count a job that was accepted while the window was full."""
        self.backlog.add(row.engine, row.tenant)

    async def close(self, finish_seconds: float = _CLOSE_SECONDS) -> None:
        """Publish the jobs that are on their way, for a few seconds at most: the ledger hands over the rest later."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + finish_seconds
        await self._background.close(finish_seconds)
        await self._publishing.close(max(deadline - loop.time(), 0))

    async def rinse(self, engine_id: str) -> None:
        """Publish an event that is no job. A sidecar that has left the topic still swallows the next event there.

        Over Redis 7 and later, daprd's read of a topic goes on until something comes, and what comes is not delivered.
        """
        await self._sidecar.publish(GATEWAY_JOBS_COMPONENT, job_topic(engine_id), self._events.empty(engine_id))

    async def _publish(self, engine_id: str, rows: Sequence[JobRow]) -> list[None]:
        failed = await self._publish_batch(engine_id, rows)
        if failed:
            await self._requeue(engine_id, failed)
        return [None] * len(rows)

    async def _publish_batch(self, engine_id: str, rows: Sequence[JobRow]) -> Sequence[JobRow]:
        """Publish jobs; return those that the broker did not confirm."""
        topic, weights = job_topic(engine_id), self._weights()
        workers, window = self._catalogue.workers_of_all_slots(engine_id), self._catalogue.window(engine_id)
        try:
            orders = [await self._events.order_of(row, weights.get(row.tenant, 1.0)) for row in rows]
            groups = list(divide(rows, orders, self.grouping.jobs_per_event(engine_id, workers, window)))
            events = [self._events.of(engine_id, orders[group]) for group in groups]
            if len(events) == 1:
                await self._sidecar.publish(GATEWAY_JOBS_COMPONENT, topic, events[0])
                return []
            landed = await self._sidecar.publish_many(GATEWAY_JOBS_COMPONENT, topic, events)
        except EnginehouseError as error:
            log.warning(
                f"{len(rows)} jobs of {engine_id} stay queued, because they could not be published: {error}",
                action="hand_over_failed",
                engine_id=engine_id,
                job_ids=[row.id for row in rows],
            )
            return rows
        return [row for group, ok in zip(groups, landed, strict=True) if not ok for row in rows[group]]

    async def _requeue(self, engine_id: str, failed: Sequence[JobRow]) -> None:
        self._broken_until[engine_id] = time.monotonic() + self._broker_retry_seconds
        # These jobs wait again: when another job of the engine ends, the dispatcher must look for them.
        for row in failed:
            self.note_waiting(row)
        item = Requeue(tuple(row.id for row in failed), StatusReason.WAITING_FOR_BROKER, time.time())
        try:
            await self._ledger.requeue(item)
        except EnginehouseError as error:
            log.error(
                f"{len(failed)} jobs of {engine_id} are left to the sweep, because the ledger does not answer: {error}",
                action="ledger_away",
                engine_id=engine_id,
                job_ids=item.job_ids,
            )
        # Wake the dispatcher only now: earlier, it would have found no jobs in the queue.
        asyncio.get_running_loop().call_later(self._broker_retry_seconds, self.wake, engine_id)

    async def _fill(self, engine_id: str) -> None:
        try:
            while True:
                self._woken.discard(engine_id)
                window = self.window(engine_id)
                rows = await self._next_jobs(engine_id, window) if window else []
                for row in rows:
                    self.send(row)
                    self.backlog.remove(engine_id, row.tenant)
                if engine_id not in self._woken:
                    return
        except EnginehouseError as error:
            log.error(
                f"Jobs of {engine_id} wait for the ledger, which does not answer: {error}",
                action="ledger_away",
                engine_id=engine_id,
            )
        finally:
            self._filling.discard(engine_id)

    async def _next_jobs(self, engine_id: str, window: int) -> list[JobRow]:
        weights, turns = self._weights(), self._turns[engine_id]
        workers = self._catalogue.workers_of_all_slots(engine_id)
        at_least = room_to_fill(workers, window, self.grouping.jobs_per_event(engine_id, workers, window))
        rows = await self._ledger.fill_window(FillWindow(engine_id, window, time.time(), at_least, weights, turns))
        for row in rows:
            turns.take(row.tenant, weights.get(row.tenant, 1.0))
        return rows
