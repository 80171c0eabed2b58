"""Publishes the lines that an engine streams while it works: within bounds, and without delaying the work."""

import asyncio
import contextlib
from collections import deque
from typing import Any

import pydantic_core
import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.events import (
    PROGRESS_EVENT_MAX_BYTES,
    PROGRESS_EVENTS_MAX,
    PROGRESS_KINDS,
    ProgressData,
    progress_event,
    progress_sequence,
)
from enginehouse.contracts.names import COMPLETIONS_TOPIC
from enginehouse.contracts.proofs import EngineKey
from enginehouse.runner.attempt import Execution
from enginehouse.sidecar.base import Sidecar

_log = structlog.get_logger(__name__)

_WAITING_MAX = 100
_BATCH = 20
_FLUSH_SECONDS = 1.0


class ProgressPublisher:
    """Publishes the progress of one attempt. Drops lines beyond its bounds, or faster than they can be published."""

    def __init__(self, sidecar: Sidecar, engine_id: str, key: EngineKey, pubsub: str, execution: Execution) -> None:
        self._sidecar = sidecar
        self._engine_id = engine_id
        self._key = key
        self._pubsub = pubsub
        self._execution = execution
        self._waiting: deque[ProgressData] = deque()
        self._events = 0
        self._publishing: asyncio.Task[None] | None = None

    def add_line(self, line: dict[str, Any]) -> None:
        """Publish a line of the engine's stream, `{kind: value}`: one event for each kind that it names."""
        for kind in PROGRESS_KINDS:
            if kind in line:
                self._add(kind, line[kind])

    async def flush(self) -> None:
        """Wait a moment for the last lines to be published, so that they come before the job's end."""
        if self._publishing is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self._publishing

    def _add(self, kind: Any, value: Any) -> None:
        if self._events >= PROGRESS_EVENTS_MAX or len(pydantic_core.to_json(value)) > PROGRESS_EVENT_MAX_BYTES:
            return
        if kind == "progress" and self._waiting and self._waiting[-1].kind == kind:
            # Only the latest progress matters, and nobody has seen the one that waits.
            self._waiting[-1] = self._waiting[-1].model_copy(update={"value": value})
            return
        if len(self._waiting) >= _WAITING_MAX:
            return
        self._events += 1
        sequence = progress_sequence(self._execution.attempt.number, self._events)
        self._waiting.append(ProgressData(kind=kind, value=value, sequence=sequence))
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.create_task(self._publish())

    async def _publish(self) -> None:
        job_id, worker = self._execution.attempt.job_id, self._execution.attempt.worker
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            events = [progress_event(self._key, self._engine_id, job_id, data, worker) for data in batch]
            try:
                await self._sidecar.publish_many(self._pubsub, COMPLETIONS_TOPIC, events)
            except EnginehouseError as error:
                # Progress that arrives late is worthless, so the lines that came meanwhile are dropped with these.
                _log.info(
                    "The progress of a job could not be published and is dropped",
                    action="progress_dropped",
                    job_id=job_id,
                    error=str(error),
                )
                self._waiting.clear()
