"""Count how often the replicas of a version end by themselves, before any was healthy and after, and how often they hang."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.local.processes import Supervised

_NOT_STARTED = 127
"""Exit status of a command that could not be started, as in a shell."""


HasRun = Callable[[int], Awaitable[bool]]
"""Says whether a replica's container, by the replica's number, has been started since it was last made."""


@dataclass(slots=True)
class Crashes:
    """The ends of the replicas of one version.

    Runners give jobs to each replica that is healthy: what ends one later may be the doing of a job's tenant, and is counted
    apart. What could not even be started, as on a machine without room, has not ended.
    """

    _was_up: bool = False
    """Whether a replica has been healthy."""
    _ends: Counter[str] = field(default_factory=Counter)
    """How often each replica has ended or could not be started, when it was last looked at."""
    _counted: Counter[tuple[Misdeed, str]] = field(default_factory=Counter)

    async def look(self, replicas: Mapping[str, Supervised], has_run: HasRun | None) -> None:
        """Count how often the replicas have ended since the last look. Without `has_run` they are processes."""
        if not self._was_up:
            self._was_up = any(await asyncio.gather(*(replica.is_healthy() for replica in replicas.values())))
        misdeed = Misdeed.CRASHES if self._was_up else Misdeed.CRASHES_WHILE_STARTING
        for number, (name, replica) in enumerate(replicas.items()):
            ended = replica.status.restarts - self._ends[name]
            if ended <= 0:
                continue
            self._ends[name] += ended
            if replica.status.last_exit != _NOT_STARTED and (has_run is None or await has_run(number)):
                self._counted[misdeed, name] += ended

    def note_health(self, *, any_healthy: bool) -> None:
        """Note what another look at the replicas has found."""
        self._was_up = self._was_up or any_healthy

    def note_hang(self, name: str) -> None:
        """Note that a replica is being killed because it hangs: its next end is not one by itself."""
        self._counted[Misdeed.HANGS, name] += 1
        self._ends[name] += 1

    def counted(self) -> Counter[Misdeed]:
        """Return of each kind how often that replica has done it which did it most."""
        most = Counter[Misdeed]()
        for (misdeed, _), times in self._counted.items():
            most[misdeed] = max(most[misdeed], times)
        return most
