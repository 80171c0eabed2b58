"""The engine's replicas and their places: which replica works on the next job, and which can work at all."""

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from enginehouse.runner.blame import Blame
from enginehouse.runner.clients.base import EngineClient
from enginehouse.turns import Turns


@dataclass(frozen=True, slots=True)
class Asker:
    """The tenant for whose job a place is asked."""

    tenant: str = ""
    weight: float = 1.0
    """Its weight among the tenants of the engine."""


@dataclass(eq=False, slots=True)
class Replica:
    """One engine process or container."""

    client: EngineClient
    concurrency: int
    """Number of its places: jobs that it works on at once."""
    places_taken: int = 0
    """A call that was given up keeps its place until it is known to have ended."""
    healthy: bool = False
    restarting: bool = False
    """True from the request to restart it until that is done. It has no job in hand then."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when `healthy` changes."""
    calls: dict["Place", float] = field(default_factory=dict)
    """Calls that are out at the engine, given up ones included: when each went out, on the event loop's clock."""
    answered_at: float = 0.0
    """Moment at which it last answered a call."""
    silent: bool = False
    """Whether it gave no answer to the last health check."""
    hung: set["Place"] = field(default_factory=set)
    """Places of calls that were given up and go on past their time."""
    draining: bool = False
    """True while it gets no more jobs, so that it can be restarted when those in hand have ended."""
    abandoned_since: float | None = None
    """Moment since which the engine has said at each health check that it works on calls that were given up."""

    def reason_to_wait(self, since: float) -> str | None:
        """Explain why a call that went out at `since` may have waited behind others here. None: nothing says that it did."""
        cause = self.client.warning
        if cause is None and self.silent:
            cause = "the engine answers no health check while it works, so it may work on one job at a time"
        if cause is None or (len(self.calls) < 2 and self.answered_at <= since):
            return None
        waited = f"waited {self.answered_at - since:.1f} s" if self.answered_at > since else "waited"
        return f"{waited} behind other jobs: {cause}"


class ReplicaPool:
    """Gives each job a place at the healthy replica with the fewest places taken.

    Jobs that find none wait: tenants take turns, of which one that holds fewer places comes first, and the jobs of a
    tenant are served in the order in which they came. So a tenant waits for one place to become free, however many jobs
    of others wait, and however long those take.
    """

    def __init__(self, clients: Sequence[EngineClient], concurrency_each: int, *, blame: Blame | None = None) -> None:
        """Hold tenants back as `blame` says; None at an engine that works for one tenant."""
        self.blame = blame
        self._concurrency_each = concurrency_each
        self.replicas = [Replica(client, concurrency_each) for client in clients]
        self._waiting: dict[Asker, deque[asyncio.Future[Replica | None]]] = {}
        """The waiting jobs of each tenant that has some."""
        self._turns = Turns()
        self._held: Counter[str] = Counter()
        """Number of places that each tenant holds. A call that was given up counts until it is known to have ended."""
        self.stopped = False
        """True while the pool gives no places."""

    @property
    def any_healthy(self) -> bool:
        """Whether some replica can work at all."""
        return any(replica.healthy for replica in self.replicas)

    @property
    def warning(self) -> str | None:
        """What slows the engine's jobs, in the words of the first replica that says so."""
        return next((replica.client.warning for replica in self.replicas if replica.client.warning), None)

    @property
    def concurrency(self) -> int:
        """Places of all replicas together."""
        return sum(replica.concurrency for replica in self.replicas)

    def take(self, asker: Asker) -> Replica | None:
        """Take a place at once and return its replica; None if none is free, or if other jobs wait already."""
        return None if self._waiting or self.stopped or not self._allows(asker) else self._take(asker)

    async def wait(self, asker: Asker, patience_seconds: float) -> Replica | None:
        """Wait for a place and return its replica; None once no replica has been healthy for `patience_seconds`.

        None also if the pool is stopped, or the tenant's jobs are held back.

        While a replica is healthy and only busy, this waits without limit.
        """
        if self.stopped or self.held_back_seconds(asker.tenant):
            return None
        mine: asyncio.Future[Replica | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(asker, deque()).append(mine)
        self._serve()
        try:
            while not mine.done():
                await asyncio.wait({mine}, timeout=patience_seconds)
                if not mine.done() and not self.any_healthy:
                    return None
            return mine.result()
        except asyncio.CancelledError:
            if mine.done() and (replica := mine.result()) is not None:
                self.release(replica, asker)
            raise
        finally:
            if mine in self._waiting.get(asker, ()):
                self._waiting[asker].remove(mine)
                self._forget_if_empty(asker)

    def stop(self) -> None:
        """Give no more places. Jobs that wait for one get None."""
        self.stopped = True
        waiting, self._waiting = self._waiting, {}
        for line in waiting.values():
            for job in line:
                job.set_result(None)

    def resume(self) -> None:
        """Give places again."""
        self.stopped = False

    def release(self, replica: Replica, asker: Asker) -> None:
        """Give back a place at `replica`."""
        replica.places_taken -= 1
        self._held[asker.tenant] -= 1
        if not self._held[asker.tenant]:
            del self._held[asker.tenant]
        self._serve()

    def set_health(self, replica: Replica, healthy: bool) -> None:
        """Note the result of a health check, or of a call that found the engine away."""
        if healthy != replica.healthy:
            replica.healthy = healthy
            replica.changed.set()
            if healthy and self.blame is not None:
                self._hand_back(self.blame.hold_anew())
        if healthy:
            self._serve()

    def limit(self, replica: Replica, concurrency: int | None) -> None:
        """Give a replica no more jobs at once than it says it works on: others would wait there while their clocks run."""
        replica.concurrency = min(self._concurrency_each, concurrency or self._concurrency_each)
        self._serve()

    def _take(self, asker: Asker) -> Replica | None:
        best = self._best()
        if best is not None:
            best.places_taken += 1
            self._held[asker.tenant] += 1
            self._turns.take(asker.tenant, asker.weight)
        return best

    def _best(self) -> Replica | None:
        best: Replica | None = None
        for replica in self.replicas:
            if (
                replica.healthy
                and not replica.draining
                and replica.places_taken < replica.concurrency
                and (best is None or replica.places_taken < best.places_taken)
            ):
                best = replica
        return best

    def _serve(self) -> None:
        while allowed := [asker for asker in self._waiting if self._allows(asker)]:
            # Of tenants whose turns are equal, the one that has waited longer stands first in the dictionary.
            asker = min(allowed, key=lambda who: self._turns.of(who.tenant, self._held[who.tenant], who.weight))
            if (replica := self._take(asker)) is None:
                return
            self._waiting[asker].popleft().set_result(replica)
            self._forget_if_empty(asker)

    def _allows(self, asker: Asker) -> bool:
        return self.blame is None or not self.blame.seconds_left(asker.tenant, self._held[asker.tenant])

    def note_trouble(self, tenant: str) -> None:
        """Hold back the tenant's jobs for a while: the engine died of one of them, or one hung in it.

        Those that wait get None, so that they go back to the queue and leave the window to others. `Place.note_trouble`
        is for what happens to a single job.
        """
        if self.blame is not None:
            self.blame.note_trouble(tenant)
            self._hand_back([tenant])

    def _hand_back(self, tenants: Collection[str]) -> None:
        for asker in [asker for asker in self._waiting if asker.tenant in tenants]:
            for job in self._waiting.pop(asker):
                job.set_result(None)

    def held_back_seconds(self, tenant: str) -> float:
        """Return how long the tenant's next job is to stay in the queue; 0 if it may wait for a place."""
        return 0.0 if self.blame is None else self.blame.seconds_left(tenant, self._ahead(tenant))

    def _ahead(self, tenant: str) -> int:
        """Count the tenant's jobs that hold a place or wait for one."""
        return self._held[tenant] + sum(len(line) for asker, line in self._waiting.items() if asker.tenant == tenant)

    def _forget_if_empty(self, asker: Asker) -> None:
        if not self._waiting[asker]:
            del self._waiting[asker]


class Place:
    """A job's place at a replica. `async with` takes one, and gives it back at the end unless it was handed over."""

    __slots__ = (
        "_asker",
        "_is_blamed",
        "_left_to_guard",
        "_patience",
        "_pool",
        "in_company",
        "replica",
        "waited_seconds",
    )

    def __init__(self, pool: ReplicaPool, patience_seconds: float, asker: Asker) -> None:
        self._pool = pool
        self._asker = asker
        self._patience = patience_seconds
        self._left_to_guard = False
        self._is_blamed = False
        self.replica: Replica | None = None
        """None if the pool gives no places, or no replica has been healthy for `patience_seconds`."""
        self.waited_seconds = 0.0
        """Seconds until the first place was free."""
        self.in_company = False
        """Whether jobs of other tenants were at the replica when trouble came, so that one of them may be the cause."""

    @property
    def tenant(self) -> str:
        """The tenant of the job."""
        return self._asker.tenant

    async def __aenter__(self) -> "Place":
        self.replica = self._pool.take(self._asker)
        if self.replica is None:
            loop = asyncio.get_running_loop()
            waiting_since = loop.time()
            await self.take()
            self.waited_seconds = loop.time() - waiting_since
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._left_to_guard:
            self.release()

    async def take(self) -> None:
        """Wait for a place, at whichever replica has one first."""
        self.replica = self._pool.take(self._asker) or await self._pool.wait(self._asker, self._patience)

    def call_out(self, replica: Replica) -> None:
        """Note that a call goes out to the engine from here; `release` notes its end."""
        replica.calls[self] = asyncio.get_running_loop().time()

    def note_trouble(self) -> None:
        """Note that the engine died of the job, or that it hung. A job that runs out of time and then hangs counts once."""
        if not self._is_blamed:
            self._is_blamed = True
            self._pool.note_trouble(self.tenant)

    def note_company(self, replica: Replica) -> None:
        """Note that trouble came to all calls that are out at the replica."""
        for other in replica.calls:
            if other.tenant != self.tenant:
                self.in_company = other.in_company = True

    def release(self) -> None:
        """Give the place back, if it is still held."""
        replica, self.replica = self.replica, None
        if replica is not None:
            replica.calls.pop(self, None)
            self._pool.release(replica, self._asker)

    def leave_to_guard(self) -> None:
        """Let the hang guard release the place."""
        self._left_to_guard = True
