"""The parts of a simulation: processes that do one thing at a time, and steps that take all that waits."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy
from tests.benchmarks.simulation.chance import Chance
from tests.benchmarks.simulation.costs import Cost

Steps = Generator[simpy.Event, Any, None]

_AT_MOST = 64
"""What one turn takes: the gateway, its sidecar and the runners take so many at once."""


@dataclass(eq=False, slots=True)
class Job:
    """A job on its way."""

    gateway: int
    engine: int
    began: float
    ended: simpy.Event
    accepted: simpy.Event


Event = list[Job]
"""Jobs that travel together."""


class Process:
    """A process that does one thing at a time, on a core of its own or on one of a machine that several share."""

    def __init__(self, env: simpy.Environment, name: str, chance: Chance, cores: simpy.Resource | None = None) -> None:
        self.env, self.name, self.chance, self.cores = env, name, chance, cores
        self.loop = simpy.Resource(env, 1)
        self.busy = 0.0

    @property
    def is_at_rest(self) -> bool:
        """Return whether nothing is done by it, or waits for it."""
        return not self.loop.count

    def work(self, seconds: float) -> Steps:
        """Use a core for about so long."""
        seconds = self.chance.around(seconds)
        self.busy += seconds
        if self.cores is None:
            yield self.env.timeout(seconds)
            return
        with self.cores.request() as core:
            yield core
            yield self.env.timeout(seconds)


class Stage:
    """A step of a process: takes all events that wait when its turn comes, and hands their jobs on."""

    def __init__(
        self, process: Process, cost: Cost, then: Callable[[Sequence[Event]], None], *, together: bool = False
    ) -> None:
        """Hand on all jobs of a turn `together`, at its end. Otherwise each event is, when its own part is done."""
        self.process, self.cost, self.then, self.together = process, cost, then, together
        self.waiting: list[Event] = []
        self._is_running = False

    def put(self, event: Event) -> None:
        """Let an event wait for the next turn."""
        self.waiting.append(event)
        if not self._is_running:
            self._is_running = True
            self.process.env.process(self._run())

    def _take(self) -> list[Event]:
        taken, self.waiting = self.waiting[:_AT_MOST], self.waiting[_AT_MOST:]
        return taken

    def _run(self) -> Steps:
        while self.waiting:
            was_at_rest = self.process.is_at_rest
            with self.process.loop.request() as turn:
                yield turn
                yield from self._turn(self._take(), was_at_rest)
        self._is_running = False

    def _turn(self, events: Sequence[Event], was_at_rest: bool) -> Steps:
        ahead = self.cost.turn + was_at_rest * self.cost.cold
        for group in [events] if self.together else [[event] for event in events]:
            yield from self.process.work((ahead + self._cost_of(group)) / 1000)
            self.then(group)
            ahead = 0.0

    def _cost_of(self, events: Sequence[Event]) -> float:
        return self.cost.event * len(events) + self.cost.job * sum(map(len, events))
