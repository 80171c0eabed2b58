"""The engine's replicas and their slots: who gets the next job, and who is in a state to."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from enginehouse.runner.clients.base import EngineClient


@dataclass(eq=False, slots=True)
class Replica:
    """One engine process or container."""

    client: EngineClient
    concurrency: int
    """Jobs that it works on at once."""
    in_hand: int = 0
    """Jobs that hold one of its slots; a call that ran out of time holds its slot until it is known to have ended."""
    healthy: bool = False
    restarting: bool = False
    """Set from our asking for a restart until it is done: what breaks meanwhile is not the jobs' doing."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when `healthy` changes, for who watches it."""
    out: dict[object, float] = field(default_factory=dict)
    """Calls that are out at the engine, given up ones included, and since when on the loop's clock."""

    def call_out(self) -> object:
        """Note that a call goes out; what is returned takes it out of `out` again."""
        token = object()
        self.out[token] = asyncio.get_running_loop().time()
        return token


class ReplicaPool:
    """Gives each job the slot of the healthy replica with the fewest jobs in hand; others wait in order."""

    def __init__(self, clients: Sequence[EngineClient], concurrency_each: int) -> None:
        self.replicas = [Replica(client, concurrency_each) for client in clients]
        self._waiting: deque[asyncio.Future[Replica | None]] = deque()
        self.stopped = False
        """Whether no job is begun at present."""

    @property
    def any_healthy(self) -> bool:
        """Whether some replica can work at all."""
        return any(replica.healthy for replica in self.replicas)

    @property
    def concurrency(self) -> int:
        """Jobs that all replicas together work on at once."""
        return sum(replica.concurrency for replica in self.replicas)

    def take(self) -> Replica | None:
        """A slot, if one is free and nobody waits for it already."""
        return None if self._waiting or self.stopped else self._take()

    async def wait(self, patience_seconds: float) -> Replica | None:
        """A slot. None once no replica has been healthy for `patience_seconds`; busy ones are waited for."""
        if self.stopped:
            return None
        mine: asyncio.Future[Replica | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        self._serve()
        try:
            while not mine.done():
                await asyncio.wait({mine}, timeout=patience_seconds)
                if not mine.done() and not self.any_healthy:
                    return None
            return mine.result()
        except asyncio.CancelledError:
            if mine.done() and (replica := mine.result()) is not None:
                self.release(replica)
            raise
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)

    def stop(self) -> None:
        """Give no more slots; who waits for one gets None."""
        self.stopped = True
        while self._waiting:
            self._waiting.popleft().set_result(None)

    def go_on(self) -> None:
        """Give slots again."""
        self.stopped = False

    def release(self, replica: Replica) -> None:
        """Give a slot back."""
        replica.in_hand -= 1
        self._serve()

    def set_health(self, replica: Replica, healthy: bool) -> None:
        """Note what a health check, or a failed call, has shown."""
        if healthy != replica.healthy:
            replica.healthy = healthy
            replica.changed.set()
        if healthy:
            self._serve()

    def _take(self) -> Replica | None:
        best: Replica | None = None
        for replica in self.replicas:
            if (
                replica.healthy
                and replica.in_hand < replica.concurrency
                and (best is None or replica.in_hand < best.in_hand)
            ):
                best = replica
        if best is not None:
            best.in_hand += 1
        return best

    def _serve(self) -> None:
        while self._waiting and (replica := self._take()) is not None:
            self._waiting.popleft().set_result(replica)
