"""Follows a job: yields its engine's reports as they arrive, and its end."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic_core

from enginehouse.contracts.events import progress_place, progress_sequence
from enginehouse.gateway.jobs.jobs import Jobs
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.rows import JobEventRow, JobRow
from enginehouse.gateway.outcome.waiters import wait_for
from enginehouse.gateway.tenants.tenants import Caller

KEEP_ALIVE_SECONDS = 15.0
_AT_ONCE = 200
_LATE_SECONDS = 0.3
"""How long to wait for a missing event before the later events are sent without it."""
LAST = 2**53 - 1
"""Sequence of the last event of every job. A follower that names it has seen all."""


@dataclass(frozen=True, slots=True)
class FollowEvent:
    """An event that is sent to a follower of a job."""

    sequence: int
    """The event's place. A follower can resume after it."""
    kind: str
    """start, progress, output, log, metric or completed."""
    data: Any


def _in_order(after: int, reported: Sequence[JobEventRow]) -> list[JobEventRow]:
    """Return the events up to the first gap: events that were published together may arrive in any order."""
    ready: list[JobEventRow] = []
    for item in reported:
        if item.sequence != after + 1 and progress_place(item.sequence)[1] > 1:
            break
        ready.append(item)
        after = item.sequence
    return ready


@dataclass(slots=True)
class _Follower:
    """Remembers how far one follower of a job has come."""

    job_id: str
    after: int
    held_since: float | None = None
    """The moment since which events are held back, because an event before them is missing."""

    @property
    def is_late(self) -> bool:
        """Say whether the wait for the missing event is over."""
        return self.held_since is not None and time.monotonic() - self.held_since >= _LATE_SECONDS

    def _starts(self, row: JobRow, last: int) -> Iterator[FollowEvent]:
        """Yield the starts that were not sent before of all attempts up to `last`. A row knows its last worker only."""
        for attempt in range(progress_place(self.after)[0] + 1, last + 1):
            yield self._start(attempt, row.worker if attempt == row.attempts else None)

    def _start(self, attempt: int, worker: str | None) -> FollowEvent:
        self.after = progress_sequence(attempt, 0)
        return FollowEvent(self.after, "start", {"id": self.job_id, "attempt": attempt, "worker": worker})

    def take(self, row: JobRow, reported: Sequence[JobEventRow]) -> list[FollowEvent]:
        """Return the events that can be sent now: each attempt's start before all that is reported of it."""
        sent: list[FollowEvent] = []
        ready = reported if self.is_late else _in_order(self.after, reported)
        for item in ready:
            attempt, number = progress_place(item.sequence)
            value = pydantic_core.from_json(item.value)
            if number == 0:
                sent += self._starts(row, attempt - 1)
                sent.append(self._start(attempt, value["worker"]))
                continue
            sent += self._starts(row, attempt)
            self.after = item.sequence
            sent.append(FollowEvent(item.sequence, item.kind, value))
        if len(ready) == len(reported) < _AT_ONCE:
            sent += self._starts(row, row.attempts)
        return sent

    def expects_more(self, row: JobRow, reported: Sequence[JobEventRow]) -> bool:
        """Say whether more events must be on their way: one is missing, or the job has just ended."""
        if self.is_late:
            return False
        gap = bool(reported) and reported[-1].sequence > self.after
        just_ended = row.finished_at is not None and time.time() - row.finished_at < _LATE_SECONDS
        return gap or (just_ended and progress_place(self.after)[1] > 0)


async def follow(jobs: Jobs, caller: Caller, job_id: str, after: int) -> AsyncIterator[Sequence[FollowEvent]]:
    """Yield a job's events after the event `after`, as they arrive.

    Yield an empty group at the beginning and in each long silence.
    """
    yield ()
    follower = _Follower(job_id, after)
    while follower.after < LAST:
        with jobs.waiters.waiting_for(job_id) as woken:
            row = await jobs.owned(caller, job_id)
            reported = await jobs.ledger.read(read.job_events_after, job_id, follower.after, _AT_ONCE)
            if sent := follower.take(row, reported):
                follower.held_since = None
                yield sent
                continue
            if follower.expects_more(row, reported):
                follower.held_since = follower.held_since or time.monotonic()
                await wait_for(woken, _LATE_SECONDS)
                continue
            if row.status.is_final:
                yield [FollowEvent(LAST, "completed", await jobs.read(caller, job_id))]
                return
            began = time.monotonic()
            await wait_for(woken, KEEP_ALIVE_SECONDS)
            if time.monotonic() - began >= KEEP_ALIVE_SECONDS:
                yield ()
