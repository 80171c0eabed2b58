"""Accepts jobs. Whatever this returns a job id for reaches a final state, whatever crashes."""

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Any

import pydantic_core
from sqlalchemy import Row

from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.errors import InputTooLarge, JobDoesNotExist, QueueFull, RequestError
from enginehouse.contracts.job import JobRequest, RetryPolicy
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.completions import Completions
from enginehouse.gateway.dispatch import Dispatcher
from enginehouse.gateway.engines import PAUSED, Engines, KnownEngine
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.queue import IdempotencyKey, NewJob
from enginehouse.gateway.tenants import Caller

_IDEMPOTENCY_SECONDS = 86_400
_QUEUE_FULL_RETRY_SECONDS = 5
_DEFAULT_CARD = EngineCard(engine="", slot="a", version="")


@dataclass(frozen=True, slots=True)
class Submission:
    """One request for one job."""

    caller: Caller
    engine: str
    request: JobRequest
    idempotency_key: str | None = None
    idempotency_scope: str = "http"
    traceparent: str | None = None
    retry_of: str | None = None


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A job that will reach a final state."""

    id: str
    engine: str
    existing: bool


def _options(request: JobRequest, card: EngineCard) -> dict[str, Any]:
    """What holds for this job: as the request says, else as the engine's card says."""
    retry: RetryPolicy = request.retry or card.retry
    options: dict[str, Any] = {
        "retry": retry.model_dump(),
        "retry_on_timeout": request.retry_on_timeout,
        "execution_timeout_seconds": request.execution_timeout_seconds or card.execution_timeout_seconds,
    }
    if request.parameters is not None:
        options["parameters"] = request.parameters
    if request.webhook:
        options["webhook"] = request.webhook
        options["webhook_events_filter"] = request.webhook_events_filter
    return options


class Submitter:
    """Turns submissions into accepted jobs."""

    def __init__(
        self,
        ledger: Ledger,
        engines: Engines,
        dispatcher: Dispatcher,
        completions: Completions,
        *,
        inline_max_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._engines = engines
        self._dispatcher = dispatcher
        self._completions = completions
        self._inline_max_bytes = inline_max_bytes

    async def submit(self, submission: Submission) -> AcceptedJob:
        """Check and accept one job; RequestError says what is wrong with it."""
        engine = self._engines.resolve(submission.engine, submission.caller.name)
        card = engine.card or _DEFAULT_CARD
        text = await self._checked_input(submission.request, engine)
        if self._dispatcher.backlog.get(engine.id, 0) >= card.max_queued_jobs:
            raise QueueFull(
                f"{engine.id} has {card.max_queued_jobs} jobs waiting, its limit",
                retry_after_seconds=_QUEUE_FULL_RETRY_SECONDS,
            )
        row = self._row(submission, engine.id, card, text)
        job_id = row["id"]
        self._completions.expect(job_id, engine.id)
        window = 0 if engine.state == PAUSED else self._dispatcher.window(engine.id)
        inserted = await self._ledger.insert(NewJob(row, window, self._idempotency(submission, text)))
        if inserted.existing:
            existing = await self._ledger.read(read.job, inserted.job_id)
            return AcceptedJob(inserted.job_id, existing.engine if existing else engine.id, existing=True)
        if inserted.handed_over:
            self._dispatcher.send(row | {"attempts": 0})
        else:
            self._dispatcher.note_waiting(engine.id)
            self._dispatcher.wake(engine.id)
        return AcceptedJob(job_id, engine.id, existing=False)

    async def _checked_input(self, request: JobRequest, engine: KnownEngine) -> str | None:
        if request.input_ref is not None:
            raise RequestError("input_ref: this gateway has no object store configured; send the input inline")
        text = pydantic_core.to_json(request.input)
        if len(text) > self._inline_max_bytes:
            raise InputTooLarge(f"input has {len(text)} bytes as JSON; inline inputs may have {self._inline_max_bytes}")
        if engine.schema is not None:
            await engine.schema.check(request.input)
        return text.decode()

    @staticmethod
    def _row(submission: Submission, engine_id: str, card: EngineCard, text: str | None) -> dict[str, Any]:
        request, created_at = submission.request, time.time()
        return {
            "id": new_job_id(),
            "tenant": submission.caller.name,
            "engine": engine_id,
            "priority": request.priority,
            "input": text,
            "input_ref": request.input_ref,
            "options": pydantic_core.to_json(_options(request, card)).decode(),
            "traceparent": submission.traceparent,
            "created_at": created_at,
            "queue_deadline": created_at + (request.max_time_in_queue_seconds or card.max_time_in_queue_seconds),
            "result_ttl_seconds": request.result_ttl_seconds,
            "retry_of": submission.retry_of,
        }

    @staticmethod
    def _idempotency(submission: Submission, text: str | None) -> IdempotencyKey | None:
        if submission.idempotency_key is None:
            return None
        request = submission.request.model_dump_json(exclude={"input", "engine"})
        digest = hashlib.sha256(f"{submission.engine}\n{request}\n{text}".encode()).hexdigest()
        lives = max(_IDEMPOTENCY_SECONDS, submission.request.result_ttl_seconds)
        return IdempotencyKey(
            submission.idempotency_scope, submission.idempotency_key, digest, expires_at=time.time() + lives
        )


async def owned_job(ledger: Ledger, caller: Caller, job_id: str) -> Row[Any]:
    """A job of this caller; JobDoesNotExist for another tenant's, too."""
    row = await ledger.read(read.job, job_id)
    if row is None or row.tenant != caller.name:
        raise JobDoesNotExist(f"No job {job_id} of {caller.name}")
    return row


async def wait_for(future: "asyncio.Future[dict[str, Any] | None]", seconds: float) -> dict[str, Any] | None:
    """The ended job's row if it ends in time and here; None: read it."""
    done, _ = await asyncio.wait([future], timeout=seconds)
    return future.result() if done else None
