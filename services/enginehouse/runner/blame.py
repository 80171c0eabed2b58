"""Bounds what one tenant's jobs can do to others at a shared engine: jobs that it dies of, or that hang in it."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from enginehouse.runner.outcome import jittered

_FIRST_HOLD_SECONDS, _LONGEST_HOLD_SECONDS = 1.0, 60.0
_TURNS_MAX = 10
_EXCUSED_MAX = 4_096
"""Most jobs that are remembered as excused. Only a bound on memory: who is forgotten is excused once more."""


@dataclass(slots=True)
class _Trouble:
    times: int
    held_until: float
    """On the event loop's clock."""

    @property
    def hold_seconds(self) -> float:
        """How long its jobs are held back after so many times."""
        return min(_FIRST_HOLD_SECONDS * 2.0 ** min(self.times - 1, 30), _LONGEST_HOLD_SECONDS)


class Blame:
    """Remembers which tenants' jobs were at the engine when it died, or hung in it.

    Their next jobs go back to the queue for a second, twice as long each time. Then one of them runs at a time, and the
    others go back, until as many have succeeded: between two troubles of one tenant the others' jobs get through. Where
    jobs of several tenants were at the engine nobody knows whose it was, so each of them is held back and, once, none
    loses an attempt.
    """

    def __init__(self) -> None:
        self._troubles: dict[str, _Trouble] = {}
        self._excused: OrderedDict[str, None] = OrderedDict()

    def note_trouble(self, tenant: str) -> None:
        """Note that the engine died while it worked on a job of the tenant, or that one hung."""
        now = asyncio.get_running_loop().time()
        trouble = self._troubles.setdefault(tenant, _Trouble(0, 0.0))
        if trouble.held_until <= now:  # All jobs that end with one death of the engine are one trouble.
            trouble.times += 1
            trouble.held_until = now + trouble.hold_seconds

    def hold_anew(self) -> list[str]:
        """Begin every hold anew, because the engine is back: others come first. Return the tenants held back.

        They come back one after the other, the least troubled first: so one is soon at the engine without the others.
        """
        now = asyncio.get_running_loop().time()
        for rank, trouble in enumerate(sorted(self._troubles.values(), key=lambda trouble: trouble.times)):
            trouble.held_until = now + trouble.hold_seconds + min(rank, _TURNS_MAX) * _FIRST_HOLD_SECONDS
        return list(self._troubles)

    def note_success(self, tenant: str) -> None:
        """Note that a job of the tenant succeeded."""
        trouble = self._troubles.get(tenant)
        if trouble is not None:
            trouble.times -= 1
            if trouble.times <= 0:
                del self._troubles[tenant]

    def seconds_left(self, tenant: str, ahead: int = 0) -> float:
        """Return how long a job of the tenant stays in the queue, with `ahead` of its jobs before it; 0 if it may begin.

        After the hold one may run. The others would wait here as deliveries, which fill the engine's window.
        """
        trouble = self._troubles.get(tenant)
        if trouble is None:
            return 0.0
        left = max(trouble.held_until - asyncio.get_running_loop().time(), 0.0)
        return left if left or not ahead else jittered(trouble.hold_seconds)

    def excuses(self, job_id: str) -> bool:
        """Say whether a job that failed in company is excused. Each is once: the next time may be its own fault."""
        if job_id in self._excused:
            return False
        self._excused[job_id] = None
        if len(self._excused) > _EXCUSED_MAX:
            self._excused.popitem(last=False)
        return True
