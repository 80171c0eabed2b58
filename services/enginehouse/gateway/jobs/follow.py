"""Follows a job: what its engine tells on the way, as it comes, and its end."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic_core
from sqlalchemy import Row

from enginehouse.contracts.events import progress_place, progress_sequence
from enginehouse.contracts.job import Status
from enginehouse.gateway.intake.submit import owned_job, wait_for
from enginehouse.gateway.jobs.jobs import Jobs
from enginehouse.gateway.ledger import read
from enginehouse.gateway.tenants.tenants import Caller

KEEP_ALIVE_SECONDS = 15.0
_AT_ONCE = 200
_LATE_SECONDS = 0.3
"""How long an event that was told may be missing before those after it are sent without it."""
_LAST = 2**53 - 1
"""Id of the last event of every job: after it, there is nothing to resume."""


def _event(sequence: int, kind: str, data: Any) -> bytes:
    text = pydantic_core.to_json(data).decode()
    return f"id: {sequence}\nevent: {kind}\ndata: {text}\n\n".encode()


def _in_order(after: int, told: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Those of `told` before which nothing is missing: events that were told together may arrive in any order."""
    ready: list[Row[Any]] = []
    for item in told:
        if item.sequence != after + 1 and progress_place(item.sequence)[1] != 1:
            break
        ready.append(item)
        after = item.sequence
    return ready


@dataclass(slots=True)
class _Follower:
    """Where one follower of a job is."""

    job_id: str
    after: int
    held_since: float | None = None

    @property
    def is_late(self) -> bool:
        """Whether what is missing has been waited for long enough."""
        return self.held_since is not None and time.monotonic() - self.held_since >= _LATE_SECONDS

    def started(self, row: Row[Any], sequence: int) -> list[bytes]:
        """The start of the attempt of `sequence`, if it was not sent: what tells something has begun."""
        attempt, _ = progress_place(sequence)
        start = progress_sequence(attempt, 0)
        if start <= self.after:
            return []
        self.after = start
        return [_event(start, "start", {"id": self.job_id, "attempt": attempt, "worker": row.worker})]

    def take(self, row: Row[Any], told: Sequence[Row[Any]]) -> list[bytes]:
        """What can be sent now."""
        sent: list[bytes] = []
        if row.status == Status.RUNNING.value:
            sent += self.started(row, progress_sequence(row.attempts, 0))
        for item in told if self.is_late else _in_order(self.after, told):
            sent += self.started(row, item.sequence)
            self.after = item.sequence
            sent.append(_event(item.sequence, item.kind, pydantic_core.from_json(item.value)))
        return sent

    def expects_more(self, row: Row[Any], told: Sequence[Row[Any]]) -> bool:
        """Whether something is on its way: a gap in what was told, or the last of it beside the job's end."""
        if self.is_late:
            return False
        gap = bool(told) and told[-1].sequence > self.after
        just_ended = row.finished_at is not None and time.time() - row.finished_at < _LATE_SECONDS
        return gap or (just_ended and progress_place(self.after)[1] > 0)


async def follow(jobs: Jobs, caller: Caller, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Server-sent events of a job after the event `after`: start, progress, output, log, metric, completed."""
    yield b": following\n\n"
    follower = _Follower(job_id, after)
    while follower.after < _LAST:
        with jobs.waiters.waiting_for(job_id) as woken:
            row = await owned_job(jobs.ledger, caller, job_id)
            told = await jobs.ledger.read(read.job_events_after, job_id, follower.after, _AT_ONCE)
            if sent := follower.take(row, told):
                follower.held_since = None
                yield b"".join(sent)
                continue
            if follower.expects_more(row, told):
                follower.held_since = follower.held_since or time.monotonic()
                await wait_for(woken, _LATE_SECONDS)
                continue
            if Status(row.status).is_final:
                yield _event(_LAST, "completed", await jobs.read(caller, job_id))
                return
            began = time.monotonic()
            await wait_for(woken, KEEP_ALIVE_SECONDS)
            if time.monotonic() - began >= KEEP_ALIVE_SECONDS:
                yield b": still here\n\n"
