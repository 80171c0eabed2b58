"""Runs inputs that an engine's active version has answered once more on its version on trial, and compares the answers.

The jobs of a replay are in no ledger. So they reach no caller, listing, statistic, webhook or event.
"""

import asyncio
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pydantic_core
import structlog
from pydantic import BaseModel

from enginehouse.background import Background
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EnginehouseError, EngineUnavailable, NotFound, RateLimited
from enginehouse.contracts.job import JobRecord, RetryPolicy, Status
from enginehouse.contracts.names import (
    GATEWAY_JOBS_COMPONENT,
    job_topic,
    new_job_id,
    output_key,
    results_component,
    trial_of,
)
from enginehouse.contracts.replay import ReplayProgress, ReplayReport, ReplayRequest
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.handover.backlog import Backlog
from enginehouse.gateway.handover.job_event import JobEvents
from enginehouse.gateway.jobs.replay_report import Comparison, answer_of
from enginehouse.gateway.ledger import newest, read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobRow, StoredOptions
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.tenants.limits import check_not_suspended
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.records import JobRecords

log = structlog.get_logger()

_AT_ONCE_MAX = 8
_LOOK_SECONDS = 0.2
_STILL_HERE_SECONDS = 5.0
"""The longest time without news: callers and proxies then see that the replay goes on."""
_LOST_AFTER_SECONDS = 20.0
"""An order that no worker has by then is published again; a second delivery of it joins the first."""
_COMPARED_MAX_BYTES = 1024 * 1024
"""Larger outputs are compared byte by byte: they are the same or not."""


class NothingToReplay(NotFound):
    """No job that the active version answered is kept with its input."""

    code = "NOTHING_TO_REPLAY"
    advice = "Inputs are kept as long as results: 24 hours, unless the job says result_ttl_seconds."


@dataclass(slots=True)
class _Order:
    """An input that is with the version on trial."""

    row: JobRow
    """Of a job that no ledger has."""
    original: JobRow
    published_at: float


@dataclass(slots=True)
class Replay:
    """One replay while it runs."""

    trial: KnownEngine
    active: KnownEngine
    caller: Caller
    job_ids: deque[str]
    wanted: int
    compared: Comparison
    ends_at: float
    deployment: str
    news: asyncio.Queue[ReplayProgress | ReplayReport] = field(default_factory=asyncio.Queue)
    orders: dict[str, _Order] = field(default_factory=dict)

    def stopped(self) -> str | None:
        """Return why no more may be replayed; None while it may go on."""
        if time.time() >= self.ends_at:
            return "Its time was over"
        if EngineState.QUARANTINED in (self.trial.state, self.active.state):
            return "The engine is quarantined, or its version on trial is"
        card = self.trial.card
        if self.trial.state == EngineState.RETIRED or card is None or card.deployment != self.deployment:
            return "Another version is on trial, or none"
        return None

    @property
    def progress(self) -> ReplayProgress:
        """Return how far it is."""
        return ReplayProgress(done=self.compared.replayed, of=self.wanted)

    def report(self, stopped: str | None) -> ReplayReport:
        """Sum up what was compared so far."""
        versions = [engine.card.version if engine.card else None for engine in (self.active, self.trial)]
        return self.compared.report(self.active.id, (versions[0], versions[1]), self.wanted, stopped)


class Replays:
    """Runs replays, one for each engine at a time."""

    def __init__(
        self,
        sidecar: Sidecar,
        ledger: Ledger,
        catalogue: Catalogue,
        backlog: Backlog,
        events: JobEvents,
        objects: Objects | None,
        *,
        margin_seconds: int,
    ) -> None:
        """Keep a record for `margin_seconds` after the last moment at which a worker may need it."""
        self._sidecar = sidecar
        self._ledger = ledger
        self._catalogue = catalogue
        self._backlog = backlog
        self._events = events
        self._objects = objects
        self._margin_seconds = margin_seconds
        self._running: dict[str, Replay] = {}
        self._background = Background()

    def works_on(self, job_id: str) -> bool:
        """Say whether a worker may have this job of a replay now."""
        return any(job_id in replay.orders for replay in self._running.values())

    async def start(self, name: str, caller: Caller, wanted: ReplayRequest) -> AsyncIterator[BaseModel]:
        """Begin a replay for the owner of an engine, or an administrator. Return its progress, and its report as the last.

        Closing the iterator ends the replay. Raise EngineDoesNotExist if nothing is on trial, Forbidden if the engine is
        shared and the caller no administrator, TenantSuspended, EngineUnavailable if either version is quarantined,
        NothingToReplay, or RateLimited while another replay of it runs.
        """
        check_not_suspended(caller)
        trial = self._catalogue.resolve(trial_of(name), caller.name, is_admin=caller.is_admin)
        active = self._catalogue.behind(trial)
        for engine in (trial, active):
            if engine.state == EngineState.QUARANTINED:
                raise EngineUnavailable(f"Nothing is replayed: {engine.why_jobs_wait(caller)}")
        version = active.card.version if active.card else None
        job_ids = await self._ledger.read(newest.answered_by, active.id, version, time.time(), wanted.last)
        if not job_ids:
            raise NothingToReplay(f"No job that version {version} of {active.id} has answered is kept with its input")
        if active.id in self._running:
            raise RateLimited(f"A replay of {active.id} runs already", retry_after_seconds=10)
        replay = Replay(
            trial,
            active,
            caller,
            deque(job_ids),
            wanted=len(job_ids),
            compared=Comparison(wanted.tolerance),
            ends_at=time.time() + wanted.max_seconds,
            deployment=trial.card.deployment if trial.card else "",
        )
        self._running[active.id] = replay
        log.info(f"{len(job_ids)} jobs of {active.id} are replayed", action="replay_began", engine_id=active.id)
        return self._follow(replay, self._background.start(self._run(replay)))

    async def close(self) -> None:
        """End all replays."""
        await self._background.close()

    async def _follow(self, replay: Replay, run: "asyncio.Task[None]") -> AsyncIterator[BaseModel]:
        news: BaseModel
        try:
            while not run.done() or not replay.news.empty():
                try:
                    async with asyncio.timeout(_STILL_HERE_SECONDS):
                        news = await replay.news.get()
                except TimeoutError:
                    news = replay.progress
                yield news
                if isinstance(news, ReplayReport):
                    return
        finally:
            run.cancel()

    async def _run(self, replay: Replay) -> None:
        stopped, told = None, None
        try:
            while (replay.job_ids or replay.orders) and (stopped := replay.stopped()) is None:
                with contextlib.suppress(EnginehouseError):  # The sidecar or the ledger is asked again.
                    await self._send(replay)
                await asyncio.sleep(_LOOK_SECONDS)
                with contextlib.suppress(EnginehouseError):
                    await self._look(replay)
                if told != replay.progress:
                    told = replay.progress
                    replay.news.put_nowait(told)
        finally:
            del self._running[replay.active.id]
            await self._take_back(replay)
        replay.news.put_nowait(replay.report(stopped))

    def _room(self, replay: Replay) -> int:
        """Return how many inputs may be with the trial at once: one while jobs wait for either version."""
        if self._backlog.of(replay.active.id) or self._backlog.of(replay.trial.id):
            return 1
        return max(1, min(replay.trial.concurrency, _AT_ONCE_MAX))

    async def _send(self, replay: Replay) -> None:
        while replay.job_ids and len(replay.orders) < self._room(replay):
            original = await self._ledger.read(read.job, replay.job_ids[0])
            is_kept = original is not None and await self._has_input(original)
            replay.job_ids.popleft()  # Only now: what could not be read is read again.
            if original is None or not is_kept:
                replay.wanted -= 1  # It was deleted meanwhile.
                continue
            row = _order_of(original, replay)
            replay.orders[row.id] = _Order(row, original, 0)
            await self._publish(replay.orders[row.id])

    async def _has_input(self, original: JobRow) -> bool:
        if original.input_ref is None:
            return original.input is not None
        return self._objects is not None and await self._objects.size(original.input_ref) is not None

    async def _publish(self, order: _Order) -> None:
        order.published_at = time.time()
        order.row = order.row._replace(hand_overs=order.row.hand_overs + 1)
        event = self._events.of(order.row.engine, [await self._events.order_of(order.row)])
        await self._sidecar.publish(GATEWAY_JOBS_COMPONENT, job_topic(order.row.engine), event)

    async def _look(self, replay: Replay) -> None:
        """Compare the answers that have come, and hand over again what a worker gave back or nobody has."""
        stored = await JobRecords(self._sidecar, replay.trial.id).read_many(list(replay.orders))
        now = time.time()
        for job_id, order in list(replay.orders.items()):
            found = stored.get(job_id)
            if found and found.record.status.is_final:
                await self._compare(replay, order, found.record)
                await self._clear(replay, order)
            elif found and found.record.status is Status.QUEUED:
                if found.record.retry_at is None or found.record.retry_at.timestamp() <= now:
                    order.row = order.row._replace(attempts=found.record.attempt)
                    await self._publish(order)
            elif found is None and now - order.published_at > _LOST_AFTER_SECONDS:
                await self._publish(order)

    async def _compare(self, replay: Replay, order: _Order, record: JobRecord) -> None:
        original = order.original
        try:
            large_then, large_now = [await self._large(key) for key in (original.output_ref, record.output_ref)]
        except NotFound:
            replay.wanted -= 1  # The result that it had was deleted meanwhile.
            return
        output = original.output and pydantic_core.from_json(original.output)
        then = answer_of(original, output if original.output_ref is None else large_then)
        now = answer_of(record, record.output if record.output_ref is None else large_now)
        # Inputs and answers of a shared engine's jobs are their tenants', and not for whoever replays them.
        shown = original.id if original.tenant == replay.caller.name else None
        await asyncio.to_thread(replay.compared.add, shown, then, now)

    async def _large(self, key: str | None) -> object:
        """Return the output in an object as JSON, or its hash if it is too large to be looked at."""
        if key is None or self._objects is None:
            return None
        content, digest, size = bytearray(), hashlib.sha256(), 0
        async for chunk in await self._objects.get(key):
            digest.update(chunk)
            size += len(chunk)
            if size <= _COMPARED_MAX_BYTES:
                content += chunk
        if size > _COMPARED_MAX_BYTES:
            return f"{size} bytes, sha256 {digest.hexdigest()}"
        return await asyncio.to_thread(pydantic_core.from_json, bytes(content))

    async def _clear(self, replay: Replay, order: _Order) -> None:
        """Delete what an answered order has left: its record and its output."""
        del replay.orders[order.row.id]
        await self._sidecar.delete(results_component(order.row.engine), order.row.id)
        if self._objects:
            keys = [output_key(order.row.tenant, order.row.id, n + 1) for n in range(order.row.hand_overs)]
            await self._objects.delete(keys)

    async def _take_back(self, replay: Replay) -> None:
        """Cancel the orders that are not answered. Workers stop at the record, which runs out by itself."""
        records = JobRecords(self._sidecar, replay.trial.id)
        for job_id, order in list(replay.orders.items()):
            ttl = order.row.record_ttl_seconds(time.time(), self._margin_seconds)
            try:
                await records.change(job_id, ttl, decisions.cancel("the end of the replay"), over_unreadable=True)
            except EnginehouseError as error:
                log.info(f"An order of a replay is left to run out: {error}", action="replay_left", job_id=job_id)


def _order_of(original: JobRow, replay: Replay) -> JobRow:
    options = StoredOptions(
        retry=RetryPolicy(max_attempts=1),
        execution_timeout_seconds=original.options.execution_timeout_seconds,
        parameters=original.options.parameters,
    )
    return JobRow.accepted(
        id=new_job_id(),
        tenant=original.tenant,
        engine=replay.trial.id,
        priority=original.priority,
        input=original.input,
        input_ref=original.input_ref,
        options=options,
        traceparent=None,
        created_at=time.time(),
        queue_deadline=replay.ends_at,
        result_ttl_seconds=1,
        retry_of=original.id,
    )
