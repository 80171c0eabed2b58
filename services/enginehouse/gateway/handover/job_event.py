"""Makes the events that hand jobs to their engines, from their rows."""

import time
from collections.abc import Sequence
from datetime import timedelta

from enginehouse.contracts.events import JobObjects, JobOrder, Order, job_event, order_text
from enginehouse.contracts.job import RetryPolicy
from enginehouse.contracts.moments import moment_of, now
from enginehouse.contracts.names import engine_of, new_job_id, tenant_of
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.objects import Objects

_OBJECTS_MARGIN_SECONDS = 600.0
"""Keeps signed URLs valid longer than a job that begins at the last moment and uses all its execution time."""
_LONGEST_WAIT_SECONDS = 3_600.0
"""Signed URLs serve a job that begins within this time of its hand-over. A runner hands back one that begins later, and
the next hand-over signs new ones: the clouds' stores cannot take a signed URL back, so it must not live for days."""


class JobEvents:
    """Makes the events of all engines' jobs."""

    def __init__(self, keys: ProofKeys, objects: Objects | None, *, record_margin_seconds: int) -> None:
        """Show engines' runners by `keys` that the events are a gateway's. `objects` signs the URLs; None: there are none.

        Records outlive their jobs' last moment by `record_margin_seconds`.
        """
        self._keys = keys
        self._objects = objects
        self._record_margin_seconds = record_margin_seconds

    async def order_of(self, row: JobRow, weight: float = 1.0) -> Order:
        """Make the order of a job's next attempt. `weight` is the tenant's share of a shared engine."""
        objects = await self._signed(row) if self._objects else None
        return _order(row, objects, row.record_ttl_seconds(time.time(), self._record_margin_seconds), weight)

    def of(self, address: str, orders: Sequence[Order]) -> bytes:
        """Make the event that hands jobs to an engine, or to its version on trial."""
        engine_id = engine_of(address)
        return job_event(self._keys.of(engine_id), engine_id, orders)

    def empty(self, engine_id: str) -> bytes:
        """Make an event that is past its time, so that a runner acknowledges it and runs nothing."""
        engine, past = engine_of(engine_id), now() - timedelta(days=1)
        text = order_text(JobOrder(execution_timeout_seconds=1, retry=RetryPolicy(), record_ttl_seconds=1))
        order = Order(job_id=new_job_id(), tenant=tenant_of(engine), attempt=1, expires=past, data=text)
        return job_event(self._keys.of(engine), engine, [order])

    async def _signed(self, row: JobRow) -> JobObjects | None:
        assert self._objects
        begun_by = min(row.queue_deadline, time.time() + _LONGEST_WAIT_SECONDS)
        return await self._objects.of_job(
            row.tenant,
            row.id,
            _hand_over(row),
            engine_id=row.engine,
            input_ref=row.input_ref,
            expires_at=begun_by + row.options.execution_timeout_seconds + _OBJECTS_MARGIN_SECONDS,
        )


def event_to_show(row: JobRow) -> bytes:
    """Make the event of a job's next attempt for somebody who may read it: nothing in it opens anything."""
    return job_event(None, engine_of(row.engine), [_order(row, None, record_ttl_seconds=0, weight=1.0)])


def _hand_over(row: JobRow) -> int:
    # The row of a job that was just accepted does not count its first hand-over yet.
    return row.hand_overs or 1


def _order(row: JobRow, objects: JobObjects | None, record_ttl_seconds: int, weight: float) -> Order:
    options = row.options
    expires = moment_of(row.queue_deadline)
    assert expires
    order = JobOrder(
        parameters=options.parameters,
        execution_timeout_seconds=options.execution_timeout_seconds,
        retry=options.retry,
        retry_on_timeout=options.retry_on_timeout,
        record_ttl_seconds=record_ttl_seconds,
        weight=weight,
        objects=objects,
    )
    return Order(
        job_id=row.id,
        tenant=row.tenant,
        attempt=row.attempts + 1,
        expires=expires,
        # The input is JSON already, as it was accepted.
        data=order_text(order, None if row.input is None else row.input.encode()),
        traceparent=row.traceparent,
        hand_over=_hand_over(row),
    )
