"""Bounds what one tenant's jobs can do to others at a shared engine: jobs that it dies of, or that hang in it."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

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

    Their next jobs go back to the queue for a second, twice as long each time, and then run one at a time until as many
    have succeeded: between two troubles of one tenant the others' jobs get through. Where jobs of several tenants were
    at the engine nobody knows whose it was, so each of them is held back and, once, none loses an attempt.
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

    def seconds_left(self, tenant: str) -> float:
        """Return how long the tenant's jobs go back to the queue; 0 if they may wait for a place."""
        trouble = self._troubles.get(tenant)
        return 0.0 if trouble is None else max(trouble.held_until - asyncio.get_running_loop().time(), 0.0)

    def allows(self, tenant: str, held: int) -> bool:
        """Say whether a job of the tenant may begin, while it holds that many places."""
        return tenant not in self._troubles or (held == 0 and not self.seconds_left(tenant))

    def excuses(self, job_id: str) -> bool:
        """Say whether a job that failed in company is excused. Each is once: the next time may be its own fault."""
        if job_id in self._excused:
            return False
        self._excused[job_id] = None
        if len(self._excused) > _EXCUSED_MAX:
            self._excused.popitem(last=False)
        return True
