"""Accepts jobs. Whatever this returns a job id for reaches a final state, whatever crashes."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pydantic_core
from sqlalchemy import Row

from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.errors import InputTooLarge, InvalidInput, JobDoesNotExist, QueueFull, RequestError
from enginehouse.contracts.job import JobRequest, RetryPolicy
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.engines.catalogue import DEFAULT_CARD, Engines, KnownEngine
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.queue import IdempotencyKey, NewJob
from enginehouse.gateway.notify.webhooks import Webhooks
from enginehouse.gateway.objects import Objects, input_key, is_jobs_own
from enginehouse.gateway.outcome.completions import Completions
from enginehouse.gateway.tenants.limits import Limits
from enginehouse.gateway.tenants.tenants import Caller

_IDEMPOTENCY_SECONDS = 86_400
_QUEUE_FULL_RETRY_SECONDS = 5
_PARSER_DEPTH = 201
MAX_DEPTH = 128
"""Of an input: the events and records that carry it add levels, and parsers stop at _PARSER_DEPTH."""


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
    redrives: str | None = None
    """The dead letter that becomes this job, and no second one."""
    correlation_id: str | None = None
    """For upstream events: what the answering event names."""


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A job that will reach a final state."""

    id: str
    engine: str
    existing: bool


def wire_json(name: str, value: Any) -> bytes:
    """`value` as JSON that every part on its way can read; InvalidInput for what JSON has no word for, or is too deep.

    A number like 1e400 is well-formed where it comes in, and infinite from then on.
    """
    text = pydantic_core.to_json(value)
    if b"Infinity" in text or b"NaN" in text or text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        around = _PARSER_DEPTH - MAX_DEPTH
        try:
            pydantic_core.from_json(b"[" * around + text + b"]" * around, allow_inf_nan=False)
        except ValueError:
            raise InvalidInput(
                f"{name} has a number too large to be one, or is nested deeper than the {MAX_DEPTH} levels allowed"
            ) from None
    return text


def _options(submission: Submission, card: EngineCard) -> dict[str, Any]:
    """What holds for this job: as the request says, else as the engine's card says."""
    request = submission.request
    retry: RetryPolicy = request.retry or card.retry
    options: dict[str, Any] = {
        "retry": retry.model_dump(),
        "retry_on_timeout": request.retry_on_timeout,
        "execution_timeout_seconds": request.execution_timeout_seconds or card.execution_timeout_seconds,
    }
    if request.parameters is not None:
        wire_json("parameters", request.parameters)
        options["parameters"] = request.parameters
    if request.webhook:
        options["webhook"] = request.webhook
        options["webhook_events_filter"] = request.webhook_events_filter
    if submission.idempotency_scope == "event" or submission.caller.tenant.publish_finished:
        options["finished_event"] = {"correlation_id": submission.correlation_id}
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
        limits: Limits,
        webhooks: Webhooks,
        objects: Objects | None,
        inline_max_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._engines = engines
        self._dispatcher = dispatcher
        self._completions = completions
        self._limits = limits
        self._webhooks = webhooks
        self._objects = objects
        self._inline_max_bytes = inline_max_bytes
        self._arriving: Counter[str] = Counter()
        """Jobs of each engine that are being accepted at this moment."""

    async def submit(self, submission: Submission) -> AcceptedJob:
        """Check and accept one job; RequestError says what is wrong with it."""
        with self._limits.admitting(submission.caller):
            return await self._submit(submission)

    async def _submit(self, submission: Submission) -> AcceptedJob:
        if submission.request.webhook:
            self._webhooks.check(submission.caller.name, submission.request.webhook)
        engine = self._engines.resolve(submission.engine, submission.caller.name)
        card = engine.card or DEFAULT_CARD
        text = await self._checked_input(submission, engine)
        with self._place_in_queue(engine, card):
            return await self._accept(submission, engine, self._row(submission, engine.id, card, text), text)

    @contextmanager
    def _place_in_queue(self, engine: KnownEngine, card: EngineCard) -> Iterator[None]:
        """For the time it takes to accept a job. QueueFull if too many wait, or are about to."""
        about_to = max(self._arriving[engine.id] - self._dispatcher.window(engine.id), 0)
        if self._dispatcher.backlog.get(engine.id, 0) + about_to >= card.max_queued_jobs:
            raise QueueFull(
                f"{engine.id} has {card.max_queued_jobs} jobs waiting, its limit",
                retry_after_seconds=_QUEUE_FULL_RETRY_SECONDS,
            )
        self._arriving[engine.id] += 1
        try:
            yield
        finally:
            self._arriving[engine.id] -= 1

    async def _accept(
        self, submission: Submission, engine: KnownEngine, row: dict[str, Any], text: bytes | None
    ) -> AcceptedJob:
        job_id = row["id"]
        if text is not None and len(text) > self._inline_max_bytes:
            assert self._objects is not None
            row["input_ref"], row["input"] = input_key(submission.caller.name, job_id), None
            await self._objects.put(row["input_ref"], text)
        elif self._objects and is_jobs_own(row["input_ref"]):
            # A retry: the object of the old job goes with the old job.
            own = input_key(submission.caller.name, job_id)
            await self._objects.copy(row["input_ref"], own)
            row["input_ref"] = own
        self._completions.expect(job_id, engine.id)
        window = self._dispatcher.window(engine.id)
        try:
            inserted = await self._ledger.insert(
                NewJob(row, window, self._idempotency(submission, text), submission.redrives)
            )
        except BaseException as error:
            self._completions.forget(job_id)
            if isinstance(error, RequestError):
                await self._let_go_of_object(submission, row)
            raise
        if inserted.existing:
            self._completions.forget(job_id)
            await self._let_go_of_object(submission, row)
            existing = await self._ledger.read(read.job, inserted.job_id)
            return AcceptedJob(inserted.job_id, existing.engine if existing else engine.id, existing=True)
        self._limits.accepted(submission.caller.name)
        if inserted.handed_over:
            self._dispatcher.send(row | {"attempts": 0})
        else:
            self._dispatcher.note_waiting(engine.id)
            self._dispatcher.wake(engine.id)
        return AcceptedJob(job_id, engine.id, existing=False)

    async def _let_go_of_object(self, submission: Submission, row: dict[str, Any]) -> None:
        """Of a job that was not accepted."""
        if self._objects and row["input_ref"] != submission.request.input_ref:
            await self._objects.delete([row["input_ref"]])

    async def _checked_input(self, submission: Submission, engine: KnownEngine) -> bytes | None:
        """The input as JSON; None for an upload, which only the engine itself looks into."""
        request = submission.request
        if request.input_ref is not None:
            if request.input is not None:
                raise RequestError("A job has an input or an input_ref, not both")
            if self._objects is None:
                raise RequestError("input_ref: this gateway has no object store; send the input inline")
            if submission.retry_of and is_jobs_own(request.input_ref):
                return None
            await self._objects.check_upload(submission.caller.name, request.input_ref)
            return None
        text = wire_json("input", request.input)
        limit = self._objects.max_bytes if self._objects else self._inline_max_bytes
        if len(text) > limit:
            raise InputTooLarge(f"input has {len(text)} bytes as JSON; {limit} are allowed")
        if engine.schema is not None:
            await engine.schema.check(request.input, len(text))
        return text

    @staticmethod
    def _row(submission: Submission, engine_id: str, card: EngineCard, text: bytes | None) -> dict[str, Any]:
        request, created_at = submission.request, time.time()
        return {
            "id": new_job_id(),
            "tenant": submission.caller.name,
            "engine": engine_id,
            "priority": request.priority,
            "input": text.decode() if text is not None else None,
            "input_ref": request.input_ref,
            "options": pydantic_core.to_json(_options(submission, card)).decode(),
            "traceparent": submission.traceparent,
            "created_at": created_at,
            "queue_deadline": created_at + (request.max_time_in_queue_seconds or card.max_time_in_queue_seconds),
            "result_ttl_seconds": request.result_ttl_seconds,
            "retry_of": submission.retry_of,
        }

    @staticmethod
    def _idempotency(submission: Submission, text: bytes | None) -> IdempotencyKey | None:
        if submission.idempotency_key is None:
            return None
        request = submission.request.model_dump_json(exclude={"input", "engine"})
        again = f"{submission.retry_of} {submission.redrives}\n" if submission.retry_of else ""
        digest = hashlib.sha256(f"{submission.engine}\n{request}\n{again}".encode() + (text or b"")).hexdigest()
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
