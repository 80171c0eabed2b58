"""Bounds what one tenant's jobs can do to others at a shared engine: jobs that it dies of, or that hang in it."""

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass

from enginehouse.runner.outcome import jittered

_FIRST_HOLD_SECONDS, _LONGEST_HOLD_SECONDS = 1.0, 60.0
_SUSPECTED_SECONDS = 60.0
_REMEMBERED_SECONDS = 600.0
_ONE_DEATH_SECONDS = 1.0
"""The jobs that end with one death of an engine end within so much time."""
_EXCUSED_MAX = 4_096
"""Most jobs that are remembered as excused. Only a bound on memory: who is forgotten is excused once more."""


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class _Trouble:
    """What is known against one tenant. Moments are on the event loop's clock."""

    suspected_until: float = -math.inf
    deaths: int = 0
    """Deaths and hangs of an engine that only its jobs can have caused."""
    timeouts: int = 0
    """Jobs that used up the engine's own time; each success takes one off, since they do no harm beyond their place."""
    last_at: float = -math.inf
    """Moment of the last of these."""
    held_until: float = -math.inf
    engine: str | None = None
    """Address of the replica that died last, until it is back."""

    @property
    def hold_seconds(self) -> float:
        """How long its jobs are held back. A job that runs out of time and then hangs is in both numbers, and counts once."""
        return min(_FIRST_HOLD_SECONDS * 2.0 ** min(max(self.deaths, self.timeouts) - 1, 30), _LONGEST_HOLD_SECONDS)

    def hold(self, now: float) -> None:
        """Hold its jobs back from now on."""
        self.held_until = now + self.hold_seconds
        if self.deaths:
            self.suspected_until = self.held_until + _SUSPECTED_SECONDS


class Blame:
    """Remembers which tenants' jobs were at the engine when it died, or hung in it.

    Where jobs of several tenants were there, nobody knows whose it was. Each of the tenants is a suspect for a minute:
    its jobs run apart from those of others (see `ReplicaPool`), so that the next death is certain.

    A tenant whose jobs alone were there is held back: its jobs go back to the queue for a second, twice as long each
    time, up to a minute. Then one of them runs at a time, apart, and the others go back, for another minute. No success
    shortens that: a tenant could pay for each kill with a cheap one. It is forgotten after ten minutes without a death.
    """

    def __init__(self) -> None:
        self._troubles: dict[str, _Trouble] = {}
        self._excused: OrderedDict[str, None] = OrderedDict()

    def note_suspicion(self, tenant: str) -> None:
        """Note that the engine died, or blocked, while it worked on jobs of the tenant and of others."""
        trouble, now = self._trouble(tenant)
        trouble.suspected_until = max(trouble.suspected_until, now + _SUSPECTED_SECONDS)

    def note_death(self, tenant: str, engine: str) -> None:
        """Note that the replica at this address died or hung with jobs of no other tenant."""
        trouble, now = self._trouble(tenant)
        if trouble.engine != engine or trouble.last_at <= now - _ONE_DEATH_SECONDS:
            trouble.deaths += 1
            trouble.last_at, trouble.engine = now, engine
            trouble.hold(now)

    def note_timeout(self, tenant: str) -> None:
        """Note that a job of the tenant used up the engine's own time."""
        trouble, now = self._trouble(tenant)
        if trouble.held_until <= now:  # Jobs that began together are one trouble.
            trouble.timeouts += 1
            trouble.last_at = now
            trouble.hold(now)

    def note_success(self, tenant: str) -> None:
        """Note that a job of the tenant succeeded."""
        trouble = self._troubles.get(tenant)
        if trouble is not None and trouble.timeouts:
            trouble.timeouts -= 1

    def hold_anew(self, engine: str) -> list[str]:
        """Begin the holds anew of those whose jobs the replica died of, because it is back: others come first.

        Return these tenants.
        """
        now = _now()
        held = []
        for tenant, trouble in self._troubles.items():
            if trouble.engine == engine:
                trouble.engine = None
                if now < trouble.suspected_until:
                    trouble.hold(now)
                    held.append(tenant)
        return held

    def is_suspect(self, tenant: str) -> bool:
        """Say whether the tenant's jobs are to run apart from those of others."""
        trouble = self._troubles.get(tenant)
        return trouble is not None and _now() < trouble.suspected_until

    def seconds_left(self, tenant: str, ahead: int = 0) -> float:
        """Return how long a job of the tenant stays in the queue, with `ahead` of its jobs before it; 0 if it may begin.

        After the hold one may run. The others would wait here as deliveries, which fill the engine's window.
        """
        trouble = self._troubles.get(tenant)
        if trouble is None or not (trouble.deaths or trouble.timeouts):
            return 0.0
        now = _now()
        if now < trouble.held_until:
            return trouble.held_until - now
        one_at_a_time = trouble.timeouts or now < trouble.suspected_until
        return jittered(trouble.hold_seconds) if ahead and one_at_a_time else 0.0

    def excuses(self, job_id: str) -> bool:
        """Say whether a job that failed in company is excused. Each is once: the next time may be its own fault."""
        if job_id in self._excused:
            return False
        self._excused[job_id] = None
        if len(self._excused) > _EXCUSED_MAX:
            self._excused.popitem(last=False)
        return True

    def _trouble(self, tenant: str) -> tuple[_Trouble, float]:
        """Forget what is over; return what is known against the tenant, and the present moment."""
        now = _now()
        for name, trouble in list(self._troubles.items()):
            if trouble.last_at <= now - _REMEMBERED_SECONDS:
                trouble.deaths = trouble.timeouts = 0
                if trouble.suspected_until <= now:
                    del self._troubles[name]
        return self._troubles.setdefault(tenant, _Trouble()), now
