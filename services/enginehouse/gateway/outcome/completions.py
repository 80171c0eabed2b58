"""Learns what became of jobs: completions are hints, the records they point to are read and mirrored."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pydantic_core
import structlog

from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.engine import EngineCard, EngineState
from enginehouse.contracts.errors import EnginehouseError, Malformed, Unavailable
from enginehouse.contracts.events import ENGINE_ANNOUNCED, JOB_PROGRESS, Completion, ProgressReport
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.names import is_job_id
from enginehouse.gateway.engines.breaker import LATE, NEUTRAL
from enginehouse.gateway.engines.catalogue import DEFAULT_CARD, Engines
from enginehouse.gateway.engines.transitions import States
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.mirror import Mirror, Mirrored
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.outcome.restored_store import Restore
from enginehouse.gateway.outcome.waiters import Waiters
from enginehouse.gateway.tenants.limits import Limits
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.records import JobRecords

log = structlog.get_logger()

_READ_MAX = 64
_SKEW_SECONDS = 1.0
"""Between a runner's clock and ours."""


class Completions:
    """Mirrors job records into the ledger, wakes who waits, and lets the next jobs follow."""

    def __init__(
        self,
        sidecar: Sidecar,
        ledger: Ledger,
        engines: Engines,
        states: States,
        dispatcher: Dispatcher,
        waiters: Waiters,
        notifier: Notifier,
        limits: Limits,
        restore: Restore,
    ) -> None:
        self._sidecar = sidecar
        self._ledger = ledger
        self._engines = engines
        self._states = states
        self._dispatcher = dispatcher
        self._waiters = waiters
        self._notifier = notifier
        self._limits = limits
        self._restore = restore
        self._engine_of: dict[str, str] = {}
        self._wanted: dict[str, dict[str, asyncio.Future[bool]]] = defaultdict(dict)
        self._reading: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.last_progress: dict[str, float] = {}
        """For each engine, when the last-handed-over job that it has begun was handed over."""

    def expect(self, job_id: str, engine_id: str) -> None:
        """Remember a job's engine, as the ledger names it, until it ends."""
        self._engine_of[job_id] = engine_id

    def forget(self, job_id: str) -> None:
        """The job was not accepted after all."""
        self._engine_of.pop(job_id, None)

    async def deliver(self, body: bytes) -> bool:
        """A completion arrived. False: deliver it again."""
        try:
            event = read_event(Completion, body)
        except Malformed as error:
            log.warning(f"A completion cannot be read and is dropped: {error}", action="completion_malformed")
            return True
        if event.type == ENGINE_ANNOUNCED:
            if self._engines.get(event.engineid) is not None:
                self._start(self._engines.read_card(event.engineid))
            return True
        job_ids = [job_id for job_id in (event.subject, *event.data.also) if is_job_id(job_id)]
        try:
            if event.type == JOB_PROGRESS:
                return not job_ids or await self._progress(body)
            return await self._take(await self._engines_of(job_ids))
        except EnginehouseError as error:
            log.warning(f"A completion waits: {error}", action="completion_waits", job=event.subject)
            return False
        except Exception:
            log.exception("A completion failed and comes again", action="completion_failed", job=event.subject)
            return False

    async def _take(self, engine_ids: dict[str, str]) -> bool:
        try:
            return await self.mirror(engine_ids)
        except Unavailable as error:
            # Taken all the same: hints of one engine whose store is away would fill the places of all others' hints,
            # and the sweep reads the records of whatever is handed over.
            log.warning(f"The sweep is to look at these jobs: {error}", action="hint_dropped", jobs=list(engine_ids))
            return True

    async def _progress(self, body: bytes) -> bool:
        try:
            event = read_event(ProgressReport, body)
        except Malformed:
            return True
        if (await self._engines_of([event.subject])).get(event.subject) == event.engineid:
            value = pydantic_core.to_json(event.data.value).decode()
            row = {"job_id": event.subject, "sequence": event.data.sequence, "kind": event.data.kind, "value": value}
            await self._ledger.add_job_event(row)
            self._waiters.wake(event.subject, None)
        return True

    async def _engines_of(self, job_ids: list[str]) -> dict[str, str]:
        """The engines that the ledger names: what the event says could be another engine's claim."""
        known = {job_id: self._engine_of[job_id] for job_id in job_ids if job_id in self._engine_of}
        unknown = [job_id for job_id in job_ids if job_id not in known]
        return known | await self._ledger.read(read.engines_of, unknown) if unknown else known

    def _start(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def mirror(self, engine_ids: Mapping[str, str]) -> bool:
        """Bring the rows of jobs, each of an engine, to what their records say now."""
        futures = [self._mirrored(engine_id, job_id) for job_id, engine_id in engine_ids.items()]
        if futures:
            await asyncio.wait(futures)
        return all(future.result() for future in futures)

    def _mirrored(self, engine_id: str, job_id: str) -> asyncio.Future[bool]:
        """Done when a record has been read and mirrored. Reads that are wanted together are one read."""
        wanted = self._wanted[engine_id]
        future = wanted.get(job_id)
        if future is None:
            future = wanted[job_id] = asyncio.get_running_loop().create_future()
        if engine_id not in self._reading:
            self._reading.add(engine_id)
            self._start(self._read(engine_id))
        return future

    async def _read(self, engine_id: str) -> None:
        try:
            while self._wanted[engine_id]:
                # Taken out before reading: a hint that comes during the read asks for another one.
                wanted = self._wanted.pop(engine_id)
                batch = dict(list(wanted.items())[:_READ_MAX])
                self._wanted[engine_id].update({k: v for k, v in wanted.items() if k not in batch})
                await self._read_batch(engine_id, batch)
        finally:
            self._reading.discard(engine_id)

    async def _read_batch(self, engine_id: str, batch: dict[str, asyncio.Future[bool]]) -> None:
        try:
            stored = await JobRecords(self._sidecar, engine_id).read_many(list(batch))
            await self.apply(engine_id, {job_id: found.record for job_id, found in stored.items()})
        except Exception as error:
            # Whatever it was: a delivery that waits for ever would hold its place at the sidecar for ever.
            for future in batch.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()
            return
        for future in batch.values():
            if not future.done():
                future.set_result(True)

    async def apply(self, engine_id: str, records: dict[str, JobRecord]) -> None:
        """Mirror records that have just been read or written."""
        now = time.time()
        mirrored = await asyncio.gather(
            *(self._ledger.mirror(Mirror(job_id, record, now)) for job_id, record in records.items())
        )
        for item in mirrored:
            if item is not None:
                await self._tell(engine_id, item)
        if mirrored and self._dispatcher.backlog.get(engine_id):
            self._dispatcher.wake(engine_id)

    async def _tell(self, engine_id: str, item: Mirrored) -> None:
        """Let everybody know who waits for what has just become true."""
        row, job_id, status = item.row, item.row["id"], Status(item.row["status"])
        if item.changed and item.handed_over_at and (row["started_at"] or 0) >= item.handed_over_at - _SKEW_SECONDS:
            self.last_progress[engine_id] = max(self.last_progress.get(engine_id, 0), item.handed_over_at)
        if status.is_final:
            self._engine_of.pop(job_id, None)
            if item.changed:
                # Before the waiter hears of it, who may submit the next one at once.
                self._limits.ended(row["tenant"])
                self._restore.ended(engine_id, job_id)
            self._waiters.wake(job_id, row)
        if not item.changed:
            return
        if item.notices:
            self._notifier.wake()
        try:
            await self._learn(engine_id, row)
        except EnginehouseError as error:
            log.warning(f"The end of an attempt taught nothing: {error}", action="lesson_lost", engine=engine_id)
        if not status.is_final:
            self._waiters.wake(job_id, None)
        if status is Status.QUEUED:
            delay = max(row["available_at"] - time.time(), 0) + 0.005
            asyncio.get_running_loop().call_later(delay, self._dispatcher.wake, engine_id)

    async def _learn(self, engine_id: str, row: dict[str, Any]) -> None:
        """Let the engine's breaker know what became of an attempt."""
        engine = self._engines.get(engine_id)
        if engine is None or row["status"] == Status.RUNNING.value:
            return
        if row["status"] == Status.SUCCEEDED.value:
            if engine.breaker.succeeded(engine.phase):
                await self._states.move(engine, EngineState.ACTIVE)
                self._dispatcher.wake(engine_id)
            return
        code = str(pydantic_core.from_json(row["error"])["code"]) if row["error"] else ""
        if not code or code in NEUTRAL or engine.state in (EngineState.QUARANTINED, EngineState.RETIRED):
            return
        if code == LATE and _was_hurried(row, engine.card or DEFAULT_CARD):
            return
        verdict = engine.breaker.failed(code, engine.phase)
        if verdict is None:
            return
        state = EngineState.QUARANTINED if verdict.quarantine else EngineState.PAUSED
        probe_at = None if verdict.quarantine else time.time() + verdict.pause_seconds
        await self._states.move(engine, state, verdict.reason, probe_at)
        if not verdict.quarantine:
            asyncio.get_running_loop().call_later(verdict.pause_seconds + 0.05, self._dispatcher.wake, engine_id)

    async def listen_to_others(self) -> None:
        """Wake our callers when another gateway has mirrored the end of their jobs, for ever."""

        def heard(payload: str) -> None:
            for job_id in payload.split():
                self._engine_of.pop(job_id, None)
                self._waiters.wake(job_id, None)

        await self._ledger.database.listen(heard, self._waiters.wake_all)

    async def close(self) -> None:
        """Finish what is being mirrored."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for task in self._tasks:
            task.cancel()


def _was_hurried(row: Mapping[str, Any], card: EngineCard) -> bool:
    """Whether the job gave its engine less time than the card asks for: no tenant may pause an engine of others so."""
    seconds: float = pydantic_core.from_json(row["options"])["execution_timeout_seconds"]
    return seconds < card.execution_timeout_seconds
