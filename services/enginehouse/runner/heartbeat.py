"""Writes every few seconds that this worker lives and which jobs it has, and keeps it in the list of workers."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import structlog
from pydantic import ValidationError

from enginehouse.background import Background
from enginehouse.contracts.engine import WORKER_TTL_SECONDS, EngineSpec, Heartbeat, WorkerList
from enginehouse.contracts.errors import Conflict, EnginehouseError
from enginehouse.contracts.events import JOBS_PER_EVENT_MAX
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import (
    WORKERS_KEY,
    Slot,
    job_topic,
    results_component,
    trial_topic,
    worker_key,
)
from enginehouse.runner.pace import Pace
from enginehouse.sidecar.base import Sidecar, StateItem

_log = structlog.get_logger(__name__)

_LIST_TTL_SECONDS = 7 * 86_400
_TRIES = 20


class Routed(NamedTuple):
    """Which jobs a slot receives."""

    subscribed: bool
    """Those of the engine."""
    on_trial: bool
    """Those that are sent to the version on trial."""


class Heartbeats:
    """Writes the heartbeats of one worker."""

    def __init__(
        self,
        sidecar: Sidecar,
        spec: EngineSpec,
        slot: Slot,
        worker: str,
        pace: Pace,
        *,
        pubsub: str,
        concurrency: Callable[[], int],
        in_hand: Callable[[], list[str]],
        healthy: Callable[[], bool],
        asleep: Callable[[], bool],
        warning: Callable[[], str | None],
        problem: Callable[[], str | None],
        on_routed: Callable[[], None],
    ) -> None:
        """Call `on_routed` when the worker begins or ends to receive the engine's jobs, or those of a trial."""
        self._sidecar = sidecar
        self._store = results_component(spec.id)
        self._pubsub = pubsub
        self._spec = spec
        self._slot: Slot = slot
        self._worker = worker
        self._every_seconds = pace.heartbeat_seconds
        self._concurrency = concurrency
        self._in_hand = in_hand
        self._healthy = healthy
        self._asleep = asleep
        self._warning = warning
        self._problem = problem
        self._on_routed = on_routed
        self._look_seconds = pace.routing_poll_seconds
        self._routed: Routed | None = None
        self._routing_is_news = False
        self._news = asyncio.Event()
        self._idle_since: datetime | None = now()
        self._background = Background()

    def start(self) -> None:
        """Begin to write heartbeats."""
        self._background.keep("heartbeats", self._run)
        self._background.keep("routing", self._watch_routing)

    async def stop(self) -> None:
        """Stop, and remove the heartbeat: until it ran out, others would take this worker for alive."""
        await self._background.close()
        try:
            await self._sidecar.delete(self._store, worker_key(self._worker))
            await self._update_list(present=False)
        except EnginehouseError as error:
            _log.info(
                "The last heartbeat could not be removed; it runs out by itself",
                action="heartbeat_left",
                worker=self._worker,
                error=str(error),
            )

    def is_on_trial(self) -> bool | None:
        """Say whether this slot receives the jobs of a version on trial; None: it is not known yet."""
        return self._routed.on_trial if self._routed else None

    def wake(self) -> None:
        """Write a heartbeat at once, because something has changed that others wait for."""
        self._news.set()

    async def beat(self) -> None:
        """Write one heartbeat."""
        in_hand = self._in_hand()
        if in_hand:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now()
        beat = Heartbeat(
            worker=self._worker,
            slot=self._slot,
            version=self._spec.version,
            concurrency=self._concurrency(),
            in_hand=in_hand,
            idle_since=self._idle_since,
            healthy=self._healthy(),
            asleep=self._asleep(),
            jobs_per_event=JOBS_PER_EVENT_MAX,
            problem=self._problem(),
            **(await self._look_at_routing())._asdict(),
            warning=self._warning(),
            at=now(),
        )
        value = beat.model_dump_json().encode()
        await self._sidecar.put(self._store, worker_key(self._worker), value, WORKER_TTL_SECONDS)
        await self._update_list(present=True)
        if self._routing_is_news:  # After the heartbeat, which says whose card holds, and the list, which leads to it.
            self._routing_is_news = False
            self._on_routed()

    async def _look_at_routing(self) -> Routed:
        metadata = await self._sidecar.metadata()
        # A sidecar goes on showing the subscription of a component that is gone.
        topics = metadata.subscribed_topics if self._pubsub in metadata.components else frozenset()
        routed = Routed(job_topic(self._spec.id) in topics, trial_topic(self._spec.id) in topics)
        if routed != self._routed:
            self._routing_is_news = True
            self._routed = routed
            self.wake()
        return routed

    async def _watch_routing(self) -> None:
        """Tell at once when a version begins to get jobs: its card holds from then on."""
        while True:
            await asyncio.sleep(self._look_seconds)
            with contextlib.suppress(EnginehouseError):  # The next heartbeat says so.
                await self._look_at_routing()

    async def _run(self) -> None:
        failing = False
        while True:
            self._news.clear()
            try:
                await self.beat()
                failing = False
            except EnginehouseError as error:
                if not failing:
                    _log.warning(
                        "A heartbeat could not be written",
                        action="heartbeat_failed",
                        worker=self._worker,
                        error=str(error),
                    )
                failing = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_seconds):
                    await self._news.wait()

    async def _update_list(self, *, present: bool) -> None:
        """Add this worker to the list of workers, or remove it. Remove workers whose heartbeat is gone."""
        for _ in range(_TRIES):
            item = await self._sidecar.read(self._store, WORKERS_KEY)
            listed = _names(item)
            others = [name for name in listed if name != self._worker]
            if present and len(others) < len(listed):
                return
            living = await self._sidecar.read_many(self._store, [worker_key(name) for name in others])
            names = [name for name in others if worker_key(name) in living]
            wanted = WorkerList(workers=sorted({*names, self._worker} if present else names))
            try:
                await self._write_list(item, wanted.model_dump_json().encode())
                return
            except Conflict:
                continue
        _log.warning(
            f"The list of workers changed {_TRIES} times while it was being written",
            action="enlist_failed",
            worker=self._worker,
        )

    async def _write_list(self, item: StateItem | None, value: bytes) -> None:
        if item is None:
            await self._sidecar.create(self._store, WORKERS_KEY, value, _LIST_TTL_SECONDS)
        else:
            await self._sidecar.replace(self._store, WORKERS_KEY, value, item.etag, _LIST_TTL_SECONDS)


def _names(item: StateItem | None) -> list[str]:
    if item is None:
        return []
    try:
        return WorkerList.model_validate_json(item.value).workers
    except ValidationError:
        return []
