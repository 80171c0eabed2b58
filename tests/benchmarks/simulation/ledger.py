"""The simulated ledger: a disk whose syncs are shared, windows that are locked, and one writer for each gateway."""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy
from tests.benchmarks.simulation.costs import Cost
from tests.benchmarks.simulation.stages import Job, Process, Steps

WRITES_AT_MOST = 64
"""Of one transaction (`ledger/group_writer.py`)."""


class Disk:
    """A disk whose sync holds for everybody who waits when it begins."""

    def __init__(self, env: simpy.Environment, seconds: float) -> None:
        self.env, self.seconds, self.syncs = env, seconds, 0
        self._waiting: list[simpy.Event] = []
        self._is_running = False

    def sync(self) -> simpy.Event:
        """Return an event that happens when what was written so far is on the disk."""
        done = self.env.event()
        self._waiting.append(done)
        if not self._is_running:
            self._is_running = True
            self.env.process(self._run())
        return done

    def _run(self) -> Steps:
        while self._waiting:
            served, self._waiting = self._waiting, []
            yield self.env.timeout(self.seconds)
            self.syncs += 1
            for done in served:
                done.succeed()
        self._is_running = False


@dataclass
class Write:
    """A row to insert, or to mirror."""

    kind: str
    job: Job


@dataclass
class Ledger:
    """The database that all gateways share."""

    disk: Disk
    server: Process | None = None
    """PostgreSQL; none: SQLite, which works inside the gateway."""
    cost: Cost = field(default_factory=Cost)
    commits: int = 0
    windows: dict[int, simpy.Resource] = field(default_factory=dict)


class Writer:
    """The one writer of a gateway: what arrives during a transaction shares the next one."""

    def __init__(
        self, gateway: Process, ledger: Ledger, costs: Mapping[str, Cost], then: Callable[[Sequence[Write]], None]
    ) -> None:
        self.gateway, self.ledger, self.costs, self.then = gateway, ledger, costs, then
        self._waiting: list[Write] = []
        self._is_running = False

    def put(self, write: Write) -> None:
        """Let a row wait for the next transaction."""
        self._waiting.append(write)
        if not self._is_running:
            self._is_running = True
            self.gateway.env.process(self._run())

    def _run(self) -> Steps:
        while self._waiting:
            group = yield from self._work()
            yield from self._commit(group)
            self.ledger.commits += 1
            self.then(group)
        self._is_running = False

    def _work(self) -> Generator[simpy.Event, Any, list[Write]]:
        """Do the gateway's own part of a transaction. What has arrived until its turn comes is in it."""
        was_at_rest = self.gateway.is_at_rest
        with self.gateway.loop.request() as turn:
            yield turn
            group, self._waiting = self._waiting[:WRITES_AT_MOST], self._waiting[WRITES_AT_MOST:]
            kinds = Counter(write.kind for write in group)
            costs = [(self.costs[kind], count) for kind, count in kinds.items()]
            each = [cost.turn + was_at_rest * cost.cold + cost.job * count for cost, count in costs]
            yield from self.gateway.work(sum(each) / 1000)
        return group

    def _commit(self, group: Sequence[Write]) -> Steps:
        inserted = {write.job.engine for write in group if write.kind == "insert"}
        held = yield from self._lock(inserted)
        if self.ledger.server:
            cost = self.ledger.cost
            yield from self.ledger.server.work((cost.turn + cost.job * len(group) / 2) / 1000)
        if inserted:
            yield self.ledger.disk.sync()
        for request in held:
            request.resource.release(request)

    def _lock(self, engines: set[int]) -> Generator[simpy.Event, Any, list[Any]]:
        """Lock the engines' windows in one order, as PostgreSQL does at the end of a transaction."""
        held: list[Any] = []
        if self.ledger.server is None:
            return held
        for engine in sorted(engines):
            window = self.ledger.windows.setdefault(engine, simpy.Resource(self.gateway.env, 1))
            request = window.request()
            yield request
            held.append(request)
        return held
