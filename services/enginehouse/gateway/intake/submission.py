"""Turns a request for one job into the job's row and its idempotency key."""

import hashlib
import time
from dataclasses import dataclass

from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.events import RequestingEvent
from enginehouse.contracts.job import JobRequest
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.intake.requested import check_parameters
from enginehouse.gateway.ledger.accept import IdempotencyKey, IdempotencyScope
from enginehouse.gateway.ledger.rows import FinishedEvent, JobRow, StoredOptions
from enginehouse.gateway.tenants.tenants import Caller

_IDEMPOTENCY_SECONDS = 86_400


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
    event: RequestingEvent | None = None
    """For upstream events: what names the event in the data of its answer."""
    input_json: bytes | None = None
    """The input as checked JSON text, if it was too large to be parsed here. Otherwise the request has it."""


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A promise that this job reaches a final state."""

    id: str
    engine: str
    existing: bool
    """Whether an earlier submission with the same idempotency key made the job."""


def options_of(submission: Submission, card: EngineCard) -> StoredOptions:
    """Return the options of a job: from its request, or from the engine's card where the request says nothing."""
    request = submission.request
    check_parameters(request)
    wants_event = submission.idempotency_scope is IdempotencyScope.EVENT or submission.caller.tenant.publish_finished
    return StoredOptions(
        retry=request.retry or card.retry,
        retry_on_timeout=request.retry_on_timeout,
        execution_timeout_seconds=request.execution_timeout_seconds or card.execution_timeout_seconds,
        parameters=request.parameters,
        webhook=request.webhook,
        webhook_events_filter=request.webhook_events_filter if request.webhook else (),
        finished_event=(
            FinishedEvent(correlation_id=submission.correlation_id, event=submission.event) if wants_event else None
        ),
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
    digest = hashlib.sha256(f"{submission.engine}\n{request}\n{again}".encode())
    digest.update(input_json or b"")
    lives = max(_IDEMPOTENCY_SECONDS, submission.request.result_ttl_seconds)
    return IdempotencyKey(
        submission.idempotency_scope, submission.idempotency_key, digest.hexdigest(), expires_at=time.time() + lives
    )
