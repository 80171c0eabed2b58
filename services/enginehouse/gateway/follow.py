"""Follows a job: what its engine tells on the way, as it comes, and its end."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pydantic_core

from enginehouse.contracts.events import progress_sequence
from enginehouse.contracts.job import Status
from enginehouse.gateway.jobs import Jobs
from enginehouse.gateway.ledger import read
from enginehouse.gateway.submit import owned_job, wait_for
from enginehouse.gateway.tenants import Caller

KEEP_ALIVE_SECONDS = 15.0
_AT_ONCE = 200
_LAST = 2**53 - 1
"""Id of the last event of every job: after it, there is nothing to resume."""


def _event(sequence: int, kind: str, data: Any) -> bytes:
    text = pydantic_core.to_json(data).decode()
    return f"id: {sequence}\nevent: {kind}\ndata: {text}\n\n".encode()


async def follow(jobs: Jobs, caller: Caller, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Server-sent events of a job after the event `after`: start, progress, output, log, metric, completed."""
    yield b": following\n\n"
    while after < _LAST:
        with jobs.waiters.waiting_for(job_id) as woken:
            row = await owned_job(jobs.ledger, caller, job_id)
            start = progress_sequence(row.attempts, 0)
            if row.status == Status.RUNNING.value and start > after:
                after = start
                yield _event(start, "start", {"id": job_id, "attempt": row.attempts, "worker": row.worker})
            while told := await jobs.ledger.read(read.job_events_after, job_id, after, _AT_ONCE):
                for item in told:
                    after = item.sequence
                    yield _event(item.sequence, item.kind, pydantic_core.from_json(item.value))
            if Status(row.status).is_final:
                yield _event(_LAST, "completed", await jobs.read(caller, job_id))
                return
            began = time.monotonic()
            await wait_for(woken, KEEP_ALIVE_SECONDS)
            if time.monotonic() - began >= KEEP_ALIVE_SECONDS:
                yield b": still here\n\n"
