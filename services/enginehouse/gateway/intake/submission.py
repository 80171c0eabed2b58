"""Turns a request for one job into the job's row and its idempotency key."""

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import pydantic_core

from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.errors import InvalidInput, RequestError
from enginehouse.contracts.job import JobRequest
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.ledger.accept import IdempotencyKey, IdempotencyScope
from enginehouse.gateway.ledger.rows import FinishedEvent, JobRow, StoredOptions
from enginehouse.gateway.tenants.tenants import Caller

_IDEMPOTENCY_SECONDS = 86_400
_PARSER_DEPTH = 201
"""Parsers refuse JSON that is nested this deep."""
MAX_DEPTH = 128
"""How deep an input may be nested: the events and records that carry it add levels."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One request for one job."""

    caller: Caller
    engine: str
    """The engine's name as the request gives it, with or without its tenant."""
    request: JobRequest
    idempotency_key: str | None = None
    idempotency_scope: IdempotencyScope = IdempotencyScope.HTTP
    traceparent: str | None = None
    retry_of: str | None = None
    """Id of the ended job that this one repeats."""
    redrives: str | None = None
    """Id of the dead letter that becomes this job. It cannot become another one."""
    correlation_id: str | None = None
    """For upstream events: the id that the answering event repeats."""


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A promise that this job reaches a final state."""

    id: str
    engine: str
    existing: bool
    """Whether an earlier submission with the same idempotency key made the job."""


def parse_json(body: bytes, problem: str) -> Any:
    """Parse JSON; raise RequestError, beginning with `problem`, if it is malformed or has an infinite number."""
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"{problem}: {error}") from None


def wire_json(name: str, value: Any) -> bytes:
    """Write `value` as JSON that every part on its way can read.

    Raise InvalidInput, naming `name`, if the value is nested too deep or has a number that JSON cannot hold: 1e400 is
    well-formed as text, but becomes infinite when it is read.
    """
    text = pydantic_core.to_json(value)
    if b"Infinity" in text or b"NaN" in text or text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        around = _PARSER_DEPTH - MAX_DEPTH
        try:
            pydantic_core.from_json(b"[" * around + text + b"]" * around, allow_inf_nan=False)
        except ValueError:
            raise InvalidInput(
                f"{name} has a number that is too large for JSON, or is nested deeper than {MAX_DEPTH} levels"
            ) from None
    return text


def options_of(submission: Submission, card: EngineCard) -> StoredOptions:
    """Return the options of a job: from its request, or from the engine's card where the request says nothing."""
    request = submission.request
    if request.parameters is not None:
        wire_json("parameters", request.parameters)
    wants_event = submission.idempotency_scope is IdempotencyScope.EVENT or submission.caller.tenant.publish_finished
    return StoredOptions(
        retry=request.retry or card.retry,
        retry_on_timeout=request.retry_on_timeout,
        execution_timeout_seconds=request.execution_timeout_seconds or card.execution_timeout_seconds,
        parameters=request.parameters,
        webhook=request.webhook,
        webhook_events_filter=request.webhook_events_filter if request.webhook else (),
        finished_event=FinishedEvent(correlation_id=submission.correlation_id) if wants_event else None,
    )


def row_of(submission: Submission, engine_id: str, card: EngineCard, input_json: bytes | None) -> JobRow:
    """Make the row of a job that is about to be accepted."""
    request, created_at = submission.request, time.time()
    return JobRow.accepted(
        id=new_job_id(),
        tenant=submission.caller.name,
        engine=engine_id,
        priority=request.priority,
        input=None if input_json is None else input_json.decode(),
        input_ref=request.input_ref,
        options=options_of(submission, card),
        traceparent=submission.traceparent,
        created_at=created_at,
        queue_deadline=created_at + (request.max_time_in_queue_seconds or card.max_time_in_queue_seconds),
        result_ttl_seconds=request.result_ttl_seconds,
        retry_of=submission.retry_of,
    )


def idempotency_of(submission: Submission, input_json: bytes | None) -> IdempotencyKey | None:
    """Make the key under which a repeated request is the same job; None if the request gives no key."""
    if submission.idempotency_key is None:
        return None
    request = submission.request.model_dump_json(exclude={"input", "engine"})
    again = f"{submission.retry_of} {submission.redrives}\n" if submission.retry_of else ""
    digest = hashlib.sha256(f"{submission.engine}\n{request}\n{again}".encode() + (input_json or b"")).hexdigest()
    lives = max(_IDEMPOTENCY_SECONDS, submission.request.result_ttl_seconds)
    return IdempotencyKey(
        submission.idempotency_scope, submission.idempotency_key, digest, expires_at=time.time() + lives
    )
