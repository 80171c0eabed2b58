"""Calls of one kind that come while another is under way go together in the next one: one round trip for all of them."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

Send = Callable[[K, Sequence[T]], Awaitable[Sequence[Exception | None]]]
"""Does the work of all items of a key; for each, in order, what is to be raised to who asked for it."""


class Gather(Generic[K, T]):
    """Sends an item at once if fewer than `in_flight` calls of its key are under way; it never waits for company."""

    def __init__(
        self, send: Send[K, T], size: Callable[[T], int], *, at_most: int, at_most_bytes: int, in_flight: int = 1
    ) -> None:
        self._send = send
        self._size = size
        self._at_most = at_most
        self._at_most_bytes = at_most_bytes
        self._in_flight = in_flight
        self._waiting: dict[K, list[tuple[T, asyncio.Future[None]]]] = defaultdict(list)
        self._busy: dict[K, set[asyncio.Task[None]]] = defaultdict(set)

    async def do(self, key: K, item: T) -> None:
        """Return when the item is done; raise what became of it. One that nobody waits for any more is still done."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[key].append((item, done))
        if len(self._busy[key]) < self._in_flight:
            self._busy[key].add(asyncio.create_task(self._run(key)))
        await done

    async def _run(self, key: K) -> None:
        task = asyncio.current_task()
        assert task
        try:
            while waiting := self._waiting[key]:
                count = self._fitting(waiting)
                batch, self._waiting[key] = waiting[:count], waiting[count:]
                self._resolve(batch, await self._outcomes(key, [item for item, _ in batch]))
        finally:
            # In the same step as the last look: who comes now must start another.
            self._busy[key].discard(task)

    def _fitting(self, waiting: Sequence[tuple[T, "asyncio.Future[None]"]]) -> int:
        """How many of them go together: at least one, however large."""
        count = size = 0
        for item, _ in waiting[: self._at_most]:
            size += self._size(item)
            if count and size > self._at_most_bytes:
                break
            count += 1
        return count

    async def _outcomes(self, key: K, items: Sequence[T]) -> Sequence[Exception | None]:
        try:
            return await self._send(key, items)
        except Exception as error:
            return [error] * len(items)

    @staticmethod
    def _resolve(batch: Sequence[tuple[T, "asyncio.Future[None]"]], outcomes: Sequence[Exception | None]) -> None:
        for (_, done), error in zip(batch, outcomes, strict=True):
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
