"""Divides jobs that are handed over at once into events: several in one, where an engine works them off in a moment."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from enginehouse.contracts.engine import Heartbeat
from enginehouse.contracts.events import Order
from enginehouse.gateway.ledger.rows import JobRow

_EVENT_SECONDS = 0.05
"""What one worker does with the jobs of an event takes about so long: the others share the rest, and none waits for long."""
_EVENT_MAX_BYTES = 256 * 1024
"""Most bytes of orders in one event, unless a single one has more."""
_HALF_LIFE_SECONDS = 5.0
_NEWEST_WEIGHS = 0.05


@dataclass(slots=True)
class _PredictTimes:
    """How long the last jobs of an engine took, in seconds."""

    mean: float
    longest: float
    longest_at: float
    """When that job ended, on the monotonic clock."""

    def add(self, seconds: float) -> None:
        """Note that another one took so long."""
        self.mean += _NEWEST_WEIGHS * (seconds - self.mean)
        if seconds >= self.longest_now():
            self.longest, self.longest_at = seconds, time.monotonic()

    def longest_now(self) -> float:
        """Return what the longest counts by now: half of it after each _HALF_LIFE_SECONDS."""
        return float(self.longest * 0.5 ** ((time.monotonic() - self.longest_at) / _HALF_LIFE_SECONDS))

    def expected(self, at_once: int) -> float:
        """Return how long a job takes, as far as it holds up others: a long one holds one place of a worker's `at_once`."""
        return max(self.mean, self.longest_now() / at_once, 1e-6)


class Grouping:
    """Knows how long each engine's jobs take, and how many of them may therefore share an event."""

    def __init__(self) -> None:
        self._seen: dict[str, _PredictTimes] = {}

    def note_end(self, row: JobRow) -> None:
        """Learn from an attempt that has ended."""
        if row.predict_time is None:
            return
        if row.engine in self._seen:
            self._seen[row.engine].add(row.predict_time)
        else:
            self._seen[row.engine] = _PredictTimes(row.predict_time, row.predict_time, time.monotonic())

    def jobs_per_event(self, engine_id: str, workers: Sequence[Heartbeat], window: int) -> int:
        """Return how many jobs may share an event: one while a worker takes no more, or no job has ended yet.

        `window`: how many jobs the engine may have in hand. Each worker can get two events of it.
        """
        seen = self._seen.get(engine_id)
        if seen is None or not workers:
            return 1
        at_once = min(worker.concurrency for worker in workers)
        taken = min(worker.jobs_per_event for worker in workers)
        in_time = int(at_once * _EVENT_SECONDS / seen.expected(at_once))
        return max(1, min(taken, in_time, window // (2 * len(workers))))


def room_to_fill(workers: Sequence[Heartbeat], window: int, jobs_per_event: int) -> int:
    """Return how much room a window must have until it is filled again, so that groups come together.

    A quarter of it at most, and never so much that a worker has less to do than it can.
    """
    places = sum(worker.concurrency for worker in workers)
    return max(1, min(jobs_per_event, window // 4, window - places))


def divide(rows: Sequence[JobRow], orders: Sequence[Order], jobs_per_event: int) -> Iterator[slice]:
    """Divide jobs, with their orders, into events in their order; yield the places of each.

    A job that was handed over or tried before goes alone, so that one that nobody can read or that kills its engine keeps
    others back once at most.
    """
    begin = size = 0
    was_again = False
    for place, (row, order) in enumerate(zip(rows, orders, strict=True)):
        is_again = row.hand_overs > 1 or row.attempts > 0
        is_full = place - begin >= jobs_per_event or size + len(order.data) > _EVENT_MAX_BYTES
        if place > begin and (was_again or is_again or is_full):
            yield slice(begin, place)
            begin, size = place, 0
        size += len(order.data)
        was_again = is_again
    if rows:
        yield slice(begin, len(rows))
