"""Follows a job: yields its engine's reports as they arrive, and its end."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pydantic_core

from enginehouse.contracts.errors import RateLimited
from enginehouse.contracts.events import progress_place, progress_sequence
from enginehouse.gateway.jobs.jobs import Jobs, refuse_expired
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.rows import JobEventRow, JobRow
from enginehouse.gateway.outcome.waiters import wait_for
from enginehouse.gateway.tenants.tenants import Caller

KEEP_ALIVE_SECONDS = 15.0
_AT_ONCE = 200
_LATE_SECONDS = 0.3
"""How long to wait for a missing event before the later events are sent without it."""
MAX_FOLLOWERS_OF_JOB = 100
"""Most streams of one job at one gateway: each of its events is sent to all of them at the same moment."""
_RETRY_SECONDS = 5
LAST = 2**53 - 1
"""Sequence of the last event of every job. A follower that names it has seen all."""


@dataclass(frozen=True, slots=True)
class FollowEvent:
    """An event that is sent to a follower of a job."""

    sequence: int
    """The event's place. A follower can resume after it."""
    kind: str
    """start, progress, output, log, metric or completed."""
    data: bytes
    """JSON, which is written once for all followers of the job."""


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
        data = pydantic_core.to_json({"id": self.job_id, "attempt": attempt, "worker": worker})
        return FollowEvent(self.after, "start", data)

    def take(self, row: JobRow, reported: Sequence[JobEventRow]) -> list[FollowEvent]:
        """Return the events that can be sent now: each attempt's start before all that is reported of it."""
        sent: list[FollowEvent] = []
        ready = reported if self.is_late else _in_order(self.after, reported)
        for item in ready:
            attempt, number = progress_place(item.sequence)
            if number == 0:
                sent += self._starts(row, attempt - 1)
                sent.append(self._start(attempt, pydantic_core.from_json(item.value)["worker"]))
                continue
            sent += self._starts(row, attempt)
            self.after = item.sequence
            sent.append(FollowEvent(item.sequence, item.kind, item.value.encode()))
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


@dataclass(slots=True)
class _Step:
    """What comes after one event of a job: found once for all followers that have come as far."""

    events: "asyncio.Task[Sequence[FollowEvent]]"
    followers: int = 0


@dataclass(slots=True)
class Followers:
    """Lets callers follow their jobs, and bounds how many streams are open."""

    jobs: Jobs
    _steps: dict[tuple[str, int], _Step] = field(default_factory=dict)
    """Steps that are awaited, by the job and the last event before them."""
    _of_tenant: Counter[str] = field(default_factory=Counter)
    _of_job: Counter[str] = field(default_factory=Counter)

    async def find(self, caller: Caller, job_id: str) -> JobRow:
        """Return the job to follow. Raise JobDoesNotExist or ResultExpired, as reading it does."""
        row = await self.jobs.owned(caller, job_id)
        refuse_expired(row)
        return row

    @contextmanager
    def counted(self, caller: Caller, job_id: str) -> Iterator[None]:
        """Count an open stream. Raise RateLimited if the tenant or the job has too many."""
        most = caller.tenant.limits.followers
        if self._of_tenant[caller.name] >= most:
            raise RateLimited(f"{caller.name} follows {most} jobs, its limit", retry_after_seconds=_RETRY_SECONDS)
        if self._of_job[job_id] >= MAX_FOLLOWERS_OF_JOB:
            raise RateLimited(
                f"Job {job_id} has {MAX_FOLLOWERS_OF_JOB} followers, the most that one gateway serves",
                retry_after_seconds=_RETRY_SECONDS,
            )
        counts = ((self._of_tenant, caller.name), (self._of_job, job_id))
        for counter, name in counts:
            counter[name] += 1
        try:
            yield
        finally:
            for counter, name in counts:
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]

    async def follow(self, caller: Caller, job_id: str, after: int) -> AsyncIterator[Sequence[FollowEvent]]:
        """Yield a job's events after the event `after`, as they arrive.

        Yield an empty group at the beginning and in each long silence.
        """
        yield ()
        while after < LAST:
            with self._step(caller, job_id, after) as step:
                done, _ = await asyncio.wait([step], timeout=KEEP_ALIVE_SECONDS)
            events = step.result() if done else ()
            if done and not events:
                return
            yield events
            after = events[-1].sequence if events else after

    @contextmanager
    def _step(self, caller: Caller, job_id: str, after: int) -> "Iterator[asyncio.Task[Sequence[FollowEvent]]]":
        """Share the step after that event with the followers that wait for it. The last one that leaves ends it."""
        place = (job_id, after)
        step = self._steps.get(place)
        if step is None or step.events.done():
            step = self._steps[place] = _Step(asyncio.create_task(self._next(caller, job_id, after)))
        step.followers += 1
        try:
            yield step.events
        finally:
            step.followers -= 1
            if not step.followers:
                step.events.cancel()
                if self._steps.get(place) is step:
                    del self._steps[place]

    async def _next(self, caller: Caller, job_id: str, after: int) -> Sequence[FollowEvent]:
        """Wait for the events after the event `after`; none come if the job was deleted."""
        follower = _Follower(job_id, after)
        while True:
            with self.jobs.waiters.waiting_for(job_id) as woken:
                row, reported = await self.jobs.ledger.read(read.followed, job_id, follower.after, _AT_ONCE)
                if row is None:
                    return ()
                if sent := follower.take(row, reported):
                    return sent
                if follower.expects_more(row, reported):
                    follower.held_since = follower.held_since or time.monotonic()
                    await wait_for(woken, _LATE_SECONDS)
                    continue
                if row.status.is_final:
                    view = await self.jobs.read(caller, job_id)
                    return [FollowEvent(LAST, "completed", pydantic_core.to_json(view))]
                await wait_for(woken, KEEP_ALIVE_SECONDS)
