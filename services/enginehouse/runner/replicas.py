"""The engine's replicas and their places: which replica works on the next job, and which can work at all."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from enginehouse.runner.blame import Blame
from enginehouse.runner.clients.base import EngineClient
from enginehouse.runner.tenants import Asker, Tenants


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
    left: bool = False
    """Whether it is no longer one of the engine's, and may only end what it works on."""
    stuck: bool = False
    """Whether calls that were given up hold all its places and go on, and nobody can restart it."""
    draining: bool = False
    """True while it gets no more jobs, so that it can be restarted when those in hand have ended."""
    kept_for: str | None = None
    """The suspect that has it for itself: it is emptied for this tenant, or only this tenant's jobs run there."""
    spent: bool = False
    """Whether it has had the one call that replicas of its engine get (`mode: job`)."""
    abandoned_since: float | None = None
    """Moment since which the engine has said at each health check that it works on calls that were given up."""

    @property
    def is_gone(self) -> bool:
        """Whether what hangs in it ends without us: it restarts, or has left."""
        return self.restarting or self.left

    @property
    def serves(self) -> bool:
        """Whether it gets jobs at all."""
        return self.healthy and not self.draining and not self.spent

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

    A tenant that is suspected of killing the engine runs apart. Its turn is an empty replica: as many of its waiting
    jobs begin there as there are places, and no others until these have ended. If no replica is empty, one is emptied
    for it, while the others go on.
    """

    def __init__(
        self, clients: Sequence[EngineClient], concurrency_each: int, *, blame: Blame | None = None, once: bool = False
    ) -> None:
        """Hold tenants back as `blame` says; None at an engine that works for one tenant. `once`: a replica gets one call."""
        self._concurrency_each = concurrency_each
        self.once = once
        self.on_spent: Callable[[Replica], None] = lambda _: None
        """Hears of each replica whose one call has ended."""
        self.replicas = [Replica(client, concurrency_each) for client in clients]
        self._waiting: dict[Asker, deque[asyncio.Future[Replica | None]]] = {}
        """The waiting jobs of each tenant that has some."""
        self.tenants = Tenants(blame)
        self._healthy_until = -math.inf
        """Moment at which a replica last fell ill, on the event loop's clock."""
        self.stopped = False
        """True while the pool gives no places."""

    @property
    def any_healthy(self) -> bool:
        """Whether some replica can work at all."""
        return any(replica.healthy for replica in self.replicas)

    @property
    def seconds_down(self) -> float:
        """Seconds since the last replica fell ill; infinite if none was ever healthy. Ask if none is healthy."""
        return asyncio.get_running_loop().time() - self._healthy_until

    @property
    def warning(self) -> str | None:
        """What slows the engine's jobs, in the words of the first replica that says so."""
        return next((replica.client.warning for replica in self.replicas if replica.client.warning), None)

    @property
    def wants_replicas(self) -> bool:
        """Say whether jobs wait for replicas that are still to come."""
        return self.once and bool(self._waiting)

    @property
    def concurrency(self) -> int:
        """Places of all replicas together."""
        return sum(replica.concurrency for replica in self.replicas)

    def take(self, asker: Asker) -> Replica | None:
        """Take a place at once and return its replica; None if none is free, or if other jobs wait already."""
        if self._waiting or self.stopped or not self.tenants.allows(asker.tenant):
            return None
        apart = self.tenants.runs_apart(asker.tenant)
        if (replica := self._best(asker, apart)) is not None:
            self._take_turn(replica, asker, 1, apart)
        return replica

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
                self._serve()

    def stop(self) -> None:
        """Give no more places. Jobs that wait for one get None."""
        self.stopped = True
        waiting, self._waiting = self._waiting, {}
        for line in waiting.values():
            for job in line:
                job.set_result(None)
        self._end_reservations(())

    def resume(self) -> None:
        """Give places again."""
        self.stopped = False

    def release(self, replica: Replica, asker: Asker) -> None:
        """Give back a place at `replica`."""
        replica.places_taken -= 1
        if replica.kept_for == asker.tenant and not replica.places_taken:
            replica.kept_for = None
        self.tenants.end(asker.tenant)
        if replica.spent and not replica.left:
            self.on_spent(replica)
        self._serve()

    def add(self, client: EngineClient) -> Replica:
        """Take in a new replica and return it. It gets jobs as soon as it is known to be healthy."""
        replica = Replica(client, self._concurrency_each)
        self.replicas.append(replica)
        return replica

    def bring_back(self, replica: Replica) -> None:
        """Take in a replica that was removed, with the jobs that it may still work on."""
        replica.left = False
        self.replicas.append(replica)

    def remove(self, replica: Replica) -> None:
        """Give a replica no more jobs. Those that it works on keep their places there until they end."""
        self.set_health(replica, False)
        self.replicas.remove(replica)
        replica.left, replica.draining, replica.kept_for = True, False, None
        self._serve()

    def set_health(self, replica: Replica, healthy: bool) -> None:
        """Note the result of a health check, or of a call that found the engine away."""
        if healthy != replica.healthy:
            replica.healthy = healthy
            replica.changed.set()
            if not healthy:
                self._healthy_until = asyncio.get_running_loop().time()
            if healthy and self.tenants.blame is not None:
                self._hand_back(self.tenants.blame.hold_anew(replica.client.address))
        if healthy:
            self._serve()

    def limit(self, replica: Replica, concurrency: int | None) -> None:
        """Give a replica no more jobs at once than it says it works on: others would wait there while their clocks run."""
        replica.concurrency = min(self._concurrency_each, concurrency or self._concurrency_each)
        self._serve()

    def _take_turn(self, replica: Replica, asker: Asker, jobs: int, apart: bool) -> None:
        """Give places at the replica to so many jobs, which begin in one turn."""
        if apart:
            replica.kept_for = asker.tenant
        replica.places_taken += jobs
        self.tenants.begin(asker, jobs, replica.concurrency if apart else 1)

    def _best(self, asker: Asker, apart: bool) -> Replica | None:
        if apart:
            empty = [replica for replica in self.replicas if not replica.places_taken]
            mine = [replica for replica in empty if replica.kept_for == asker.tenant]
            return _emptiest(mine or (replica for replica in empty if replica.kept_for is None))
        return _emptiest(
            replica
            for replica in self.replicas
            if replica.places_taken < replica.concurrency and replica.kept_for is None
        )

    def _serve(self) -> None:
        suspects = {asker.tenant for asker in self._waiting if self.tenants.runs_apart(asker.tenant)}
        self._end_reservations(suspects)
        while (asker := self._next(suspects)) is not None:
            apart = asker.tenant in suspects
            if (replica := self._best(asker, apart)) is not None:
                line = self._waiting[asker]
                jobs = min(len(line), replica.concurrency) if apart else 1
                self._take_turn(replica, asker, jobs, apart)
                for _ in range(jobs):
                    line.popleft().set_result(replica)
                self._forget_if_empty(asker)
            elif not apart or not self._reserve(asker.tenant):
                return

    def _next(self, suspects: Collection[str]) -> Asker | None:
        kept = {replica.kept_for: replica for replica in self.replicas if replica.kept_for is not None}
        ready = [tenant for tenant, replica in kept.items() if not replica.places_taken]
        return self.tenants.whose_turn(self._waiting, suspects, reserved=kept, ready=ready)

    def _reserve(self, tenant: str) -> bool:
        """Have a replica emptied for a suspect; return whether there is one."""
        replica = _emptiest(replica for replica in self.replicas if replica.kept_for is None)
        if replica is not None:
            replica.kept_for = tenant
        return replica is not None

    def _end_reservations(self, suspects: Collection[str]) -> None:
        """Let others begin jobs at replicas that are emptied for none of the suspects that wait."""
        for replica in self.replicas:
            tenant = replica.kept_for
            if tenant is None or self.tenants.held(tenant):
                continue
            if tenant not in suspects or not replica.serves:
                replica.kept_for = None

    def note_trouble(self, tenant: str, replica: Replica, *, died: bool, in_company: bool) -> None:
        """Note that a replica died, or hung, with a job of the tenant, or that the job used up the engine's own time.

        If it was there without jobs of others, its jobs that wait get None, so that they go back to the queue and leave
        the window to others.
        """
        blame = self.tenants.blame
        if blame is None:
            return
        if in_company:
            blame.note_suspicion(tenant)
            return
        if died:
            blame.note_death(tenant, replica.client.address)
        else:
            blame.note_timeout(tenant)
        self._hand_back([tenant])
        self._serve()

    def _hand_back(self, tenants: Collection[str]) -> None:
        for asker in [asker for asker in self._waiting if asker.tenant in tenants]:
            for job in self._waiting.pop(asker):
                job.set_result(None)

    def held_back_seconds(self, tenant: str) -> float:
        """Return how long the tenant's next job is to stay in the queue; 0 if it may wait for a place."""
        waiting = sum(len(line) for asker, line in self._waiting.items() if asker.tenant == tenant)
        return self.tenants.seconds_held_back(tenant, self.tenants.held(tenant) + waiting)

    def _forget_if_empty(self, asker: Asker) -> None:
        if not self._waiting[asker]:
            del self._waiting[asker]


def _emptiest(replicas: Iterable[Replica]) -> Replica | None:
    """Return the one of them that serves and has the fewest places taken."""
    return min(
        (replica for replica in replicas if replica.serves), key=lambda replica: replica.places_taken, default=None
    )


class Place:
    """A job's place at a replica. `async with` takes one, and gives it back at the end unless it was handed over."""

    __slots__ = (
        "_asker",
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
        replica.spent = self._pool.once

    def note_death(self) -> None:
        """Note that the engine died of the job, or hung, or of that of another in company."""
        self._note_trouble(died=True)

    def note_timeout(self) -> None:
        """Note that the job used up the engine's own time."""
        self._note_trouble(died=False)

    def _note_trouble(self, *, died: bool) -> None:
        if self.replica is not None:
            self._pool.note_trouble(self.tenant, self.replica, died=died, in_company=self.in_company)

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
