"""Makes the event that hands a job's row to its engine."""

import pydantic_core

from enginehouse.contracts.events import JobOrder, job_event
from enginehouse.contracts.moments import moment_of
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.objects import Objects

_OBJECTS_MARGIN_SECONDS = 600.0
"""Keeps signed URLs valid longer than a job that begins at its queue deadline and uses all its execution time."""


async def event_of(row: JobRow, objects: Objects | None, record_ttl_seconds: int) -> bytes:
    """Make the event of a job's next attempt; `objects` None leaves out the signed URLs."""
    options = row.options
    reachable_until = row.queue_deadline + options.execution_timeout_seconds + _OBJECTS_MARGIN_SECONDS
    expires = moment_of(row.queue_deadline)
    assert expires
    return job_event(
        row.id,
        row.tenant,
        row.engine,
        row.attempts + 1,
        expires,
        JobOrder(
            input=pydantic_core.from_json(row.input) if row.input is not None else None,
            parameters=options.parameters,
            execution_timeout_seconds=options.execution_timeout_seconds,
            retry=options.retry,
            retry_on_timeout=options.retry_on_timeout,
            record_ttl_seconds=record_ttl_seconds,
            objects=await objects.of_job(
                row.tenant, row.id, engine_id=row.engine, input_ref=row.input_ref, expires_at=reachable_until
            )
            if objects
            else None,
        ),
        row.traceparent,
        # The row of a job that was just accepted does not count its first hand-over yet.
        row.hand_overs or 1,
    )
