"""Gathers calls of one kind that arrive during a round trip, so that they share the next one."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from enginehouse.background import Background

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")

Send = Callable[[K, Sequence[T]], Awaitable[Sequence[R | Exception]]]
"""Does the work of all items of a key. Returns a result for each item, in order, or the exception for its caller."""


class Gather(Generic[K, T, R]):
    """Sends an item at once if fewer than `in_flight` calls of its key are running; otherwise with the next call.

    It never waits for more items.
    """

    def __init__(
        self,
        send: Send[K, T, R],
        *,
        at_most: int,
        size: Callable[[T], int] | None = None,
        at_most_bytes: int = 1,
        in_flight: int = 1,
        owner: Callable[[T], str] | None = None,
    ) -> None:
        """Send at most `at_most` items in one call, with at most `at_most_bytes` in `size` together.

        If more are waiting than one call takes, the owners of the items take turns.
        """
        self._send = send
        self._size = size
        self._at_most = at_most
        self._at_most_bytes = at_most_bytes
        self._in_flight = in_flight
        self._owner = owner
        self._waiting: dict[K, list[tuple[T, asyncio.Future[R]]]] = defaultdict(list)
        self._under_way: dict[K, int] = defaultdict(int)
        self._background = Background()

    def put(self, key: K, item: T) -> "asyncio.Future[R]":
        """Queue `item` and return the future of its result. The item is sent even if nobody awaits the future."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting[key].append((item, done))
        if self._under_way[key] < self._in_flight:
            self._under_way[key] += 1
            self._background.start(self._run(key))
        return done

    async def do(self, key: K, item: T) -> R:
        """Send `item` and return its result, or raise its exception."""
        return await self.put(key, item)

    async def close(self, finish_seconds: float) -> None:
        """Send the queued items, for at most `finish_seconds`."""
        await self._background.close(finish_seconds)

    async def _run(self, key: K) -> None:
        try:
            while waiting := self._waiting[key]:
                if self._owner and len(waiting) > self._at_most:
                    waiting = _by_turns(waiting, self._owner)
                count = self._fitting(waiting)
                batch, self._waiting[key] = waiting[:count], waiting[count:]
                self._resolve(batch, await self._outcomes(key, [item for item, _ in batch]))
        finally:
            # There is no await between the last look at the queue and this line, so the next item finds this call ended
            # and starts another one.
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]
                if not self._waiting[key]:
                    del self._waiting[key]

    def _fitting(self, waiting: Sequence[tuple[T, "asyncio.Future[R]"]]) -> int:
        """Count the items that fit into one call: at least one, however large."""
        if self._size is None:
            return min(len(waiting), self._at_most)
        count = size = 0
        for item, _ in waiting[: self._at_most]:
            size += self._size(item)
            if count and size > self._at_most_bytes:
                break
            count += 1
        return count

    async def _outcomes(self, key: K, items: Sequence[T]) -> Sequence[R | Exception]:
        try:
            return await self._send(key, items)
        except Exception as error:
            return [error] * len(items)

    @staticmethod
    def _resolve(batch: Sequence[tuple[T, "asyncio.Future[R]"]], outcomes: Sequence[R | Exception]) -> None:
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if done.done():
                continue
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)


def _by_turns(
    waiting: Sequence[tuple[T, "asyncio.Future[R]"]], owner: Callable[[T], str]
) -> list[tuple[T, "asyncio.Future[R]"]]:
    """Order items so that the first of each owner come first, then the second of each, and so on.

    Those of nobody, which the house itself needs, come before all others.
    """
    before = Counter[str]()
    turns: list[int] = []
    for item, _ in waiting:
        name = owner(item)
        turns.append(before[name] if name else -1)
        before[name] += 1
    return [waiting[index] for index in sorted(range(len(waiting)), key=turns.__getitem__)]
