"""Hands jobs over to their engines' topics: as many as an engine's window has room for, in fair order."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pydantic_core
import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.events import JobOrder, job_event
from enginehouse.contracts.job import StatusReason
from enginehouse.contracts.names import GATEWAY_JOBS_COMPONENT, job_topic
from enginehouse.gateway.engines.catalogue import Engines
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.queue import TakeBack
from enginehouse.gateway.objects import Objects
from enginehouse.sidecar.base import Sidecar

log = structlog.get_logger()

_BROKER_RETRY_SECONDS = 1.0
_BATCH_MAX = 100
_OBJECTS_MARGIN_SECONDS = 600.0
"""For fetching an input and storing an output: a job may begin at the last moment of its queue, and take all its time."""


async def event_of(row: Mapping[str, Any], objects: Objects | None, record_ttl_seconds: int) -> bytes:
    """The event that hands a job's row to its engine."""
    options = pydantic_core.from_json(row["options"])
    reachable_until = row["queue_deadline"] + options["execution_timeout_seconds"] + _OBJECTS_MARGIN_SECONDS
    return job_event(
        row["id"],
        row["tenant"],
        row["engine"],
        row["attempts"] + 1,
        datetime.fromtimestamp(row["queue_deadline"], UTC),
        JobOrder(
            input=pydantic_core.from_json(row["input"]) if row["input"] is not None else None,
            parameters=options.get("parameters"),
            execution_timeout_seconds=options["execution_timeout_seconds"],
            retry=options["retry"],
            retry_on_timeout=options["retry_on_timeout"],
            record_ttl_seconds=record_ttl_seconds,
            objects=await objects.of_job(row, reachable_until) if objects else None,
        ),
        row["traceparent"],
        row.get("hand_overs", 1),
    )


class Dispatcher:
    """Publishes what has been marked as handed over, and fills windows when told that there is room."""

    def __init__(
        self,
        sidecar: Sidecar,
        ledger: Ledger,
        engines: Engines,
        objects: Objects | None,
        *,
        record_margin_seconds: int,
    ) -> None:
        self._sidecar = sidecar
        self._ledger = ledger
        self._engines = engines
        self._objects = objects
        self._record_margin_seconds = record_margin_seconds
        self._outgoing: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._publishing: set[str] = set()
        self._filling: set[str] = set()
        self._wanted: set[str] = set()
        self._broken_until: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.backlog: dict[str, int] = {}
        """How many jobs of each engine wait in the ledger, as of the last sweep, and those added since."""

    def record_ttl_seconds(self, row: Mapping[str, Any], now: float) -> int:
        """How long a job's record lives after each write: until nothing can run it any more, and its result is over."""
        execution = pydantic_core.from_json(row["options"])["execution_timeout_seconds"] if "options" in row else 0
        left = max(row["queue_deadline"] - now, 0)
        return int(max(left, row["result_ttl_seconds"]) + execution + self._record_margin_seconds)

    def window(self, engine_id: str) -> int:
        """The engine's window; 0 while its hand-overs fail, so that its jobs wait where they are safe."""
        if self._broken_until.get(engine_id, 0) > time.monotonic():
            return 0
        return self._engines.window(engine_id)

    def send(self, row: Mapping[str, Any]) -> None:
        """Publish a job that the ledger has just marked as handed over."""
        engine_id = row["engine"]
        self._outgoing[engine_id].append(row)
        if engine_id not in self._publishing:
            self._publishing.add(engine_id)
            self._start(self._publish(engine_id))

    def wake(self, engine_id: str) -> None:
        """There may be room, or a new job, in an engine's queue."""
        if engine_id in self._filling:
            self._wanted.add(engine_id)
        else:
            self._filling.add(engine_id)
            self._start(self._fill(engine_id))

    def note_waiting(self, engine_id: str) -> None:
        """A job was accepted for which there was no room."""
        self.backlog[engine_id] = self.backlog.get(engine_id, 0) + 1

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Publish what is on its way, for at most a few seconds: the ledger hands over the rest later."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for task in self._tasks:
            task.cancel()

    async def _publish(self, engine_id: str) -> None:
        try:
            while outgoing := self._outgoing[engine_id][:_BATCH_MAX]:
                del self._outgoing[engine_id][: len(outgoing)]
                failed = await self._publish_batch(engine_id, outgoing)
                if failed:
                    await self._give_back(engine_id, failed)
        finally:
            self._publishing.discard(engine_id)

    async def _publish_batch(self, engine_id: str, outgoing: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those that the broker does not have for certain."""
        try:
            now = time.time()
            events = [await event_of(row, self._objects, self.record_ttl_seconds(row, now)) for row in outgoing]
            if len(events) == 1:
                await self._sidecar.publish(GATEWAY_JOBS_COMPONENT, job_topic(engine_id), events[0])
                landed = [True]
            else:
                landed = await self._sidecar.publish_many(GATEWAY_JOBS_COMPONENT, job_topic(engine_id), events)
        except EnginehouseError as error:
            log.warning(
                f"{len(outgoing)} jobs of {engine_id} stay queued: the broker did not take them: {error}",
                action="hand_over_failed",
                engine=engine_id,
                jobs=len(outgoing),
            )
            return outgoing
        return [row for row, ok in zip(outgoing, landed, strict=True) if not ok]

    async def _give_back(self, engine_id: str, failed: list[Mapping[str, Any]]) -> None:
        self._broken_until[engine_id] = time.monotonic() + _BROKER_RETRY_SECONDS
        # They wait again: jobs that end meanwhile must make others follow.
        self.backlog[engine_id] = self.backlog.get(engine_id, 0) + len(failed)
        try:
            await self._ledger.take_back(
                TakeBack(tuple(row["id"] for row in failed), StatusReason.WAITING_FOR_BROKER, time.time())
            )
        except EnginehouseError as error:
            log.error(f"The ledger does not answer; the sweep will find these jobs: {error}", action="ledger_away")
        # Not before they are back in the queue, or nobody would find them there.
        asyncio.get_running_loop().call_later(_BROKER_RETRY_SECONDS, self.wake, engine_id)

    async def _fill(self, engine_id: str) -> None:
        try:
            while True:
                self._wanted.discard(engine_id)
                window = self.window(engine_id)
                rows = await self._ledger.fill_window(engine_id, window, time.time()) if window else []
                for row in rows:
                    self.send(row._asdict())
                if rows:
                    self.backlog[engine_id] = max(self.backlog.get(engine_id, 0) - len(rows), 0)
                if engine_id not in self._wanted:
                    return
        except EnginehouseError as error:
            log.error(f"The ledger does not answer; dispatching waits: {error}", action="ledger_away")
        finally:
            self._filling.discard(engine_id)
