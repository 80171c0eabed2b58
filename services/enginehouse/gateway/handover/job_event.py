"""Makes the event that hands a job's row to its engine."""

import time
from datetime import timedelta

import pydantic_core

from enginehouse.contracts.events import JobOrder, job_event
from enginehouse.contracts.job import RetryPolicy
from enginehouse.contracts.moments import moment_of, now
from enginehouse.contracts.names import engine_of, new_job_id, tenant_of
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.objects import Objects

_OBJECTS_MARGIN_SECONDS = 600.0
"""Keeps signed URLs valid longer than a job that begins at the last moment and uses all its execution time."""
_LONGEST_WAIT_SECONDS = 3_600.0
"""Signed URLs serve a job that begins within this time of its hand-over. A runner hands back one that begins later, and
the next hand-over signs new ones: the clouds' stores cannot take a signed URL back, so it must not live for days."""


def empty_event(engine_id: str) -> bytes:
    """Make an event that is past its time, so that a runner acknowledges it and runs nothing."""
    order = JobOrder(execution_timeout_seconds=1, retry=RetryPolicy(), record_ttl_seconds=1)
    return job_event(
        new_job_id(), tenant_of(engine_id), engine_of(engine_id), 1, now() - timedelta(days=1), order, None
    )


async def event_of(row: JobRow, objects: Objects | None, record_ttl_seconds: int, weight: float = 1.0) -> bytes:
    """Make the event of a job's next attempt; `objects` None leaves out the signed URLs.

    `weight` is the tenant's share of a shared engine.
    """
    options = row.options
    begun_by = min(row.queue_deadline, time.time() + _LONGEST_WAIT_SECONDS)
    reachable_until = begun_by + options.execution_timeout_seconds + _OBJECTS_MARGIN_SECONDS
    # The row of a job that was just accepted does not count its first hand-over yet.
    hand_over = row.hand_overs or 1
    expires = moment_of(row.queue_deadline)
    assert expires
    return job_event(
        row.id,
        row.tenant,
        engine_of(row.engine),
        row.attempts + 1,
        expires,
        JobOrder(
            input=pydantic_core.from_json(row.input) if row.input is not None else None,
            parameters=options.parameters,
            execution_timeout_seconds=options.execution_timeout_seconds,
            retry=options.retry,
            retry_on_timeout=options.retry_on_timeout,
            record_ttl_seconds=record_ttl_seconds,
            weight=weight,
            objects=await objects.of_job(
                row.tenant,
                row.id,
                hand_over,
                engine_id=row.engine,
                input_ref=row.input_ref,
                expires_at=reachable_until,
            )
            if objects
            else None,
        ),
        row.traceparent,
        hand_over,
    )
