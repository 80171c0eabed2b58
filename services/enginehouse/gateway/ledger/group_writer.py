"""Commits writes in groups, so that many callers share one transaction."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from enginehouse.gateway.ledger.database import Database, as_unavailable
from enginehouse.sidecar.gather import Gather

Write = Callable[[Connection, list[Any]], Sequence[Any]]
"""Writes all items of one kind in a group; returns a result, or an exception to raise, for each of them."""

_GROUP_MAX = 64
"""A write waits for the group before its own: about 10 ms if all of them are jobs. A job of a caller is three writes."""
_CLOSE_SECONDS = 60.0
"""Time to commit the writes that have arrived when the ledger is closed."""


@dataclass(frozen=True, slots=True)
class _Write:
    """An item that waits to be committed, with the function that writes it."""

    write: Write
    item: Any
    durable: bool
    owner: str


class GroupWriter:
    """Commits writes in groups: writes that arrive during one transaction share the next one."""

    def __init__(self, database: Database, last: Write | None = None) -> None:
        """Take `last` as the write that comes after all others of its group: other gateways wait for what it locks."""
        self._database = database
        self._last = last
        self._gather: Gather[None, _Write, Any] = Gather(
            self._commit_or_divide, at_most=_GROUP_MAX, owner=lambda write: write.owner
        )

    async def write(self, write: Write, item: Any, *, durable: bool = False, owner: str = "") -> Any:
        """Run `write` for `item`, together with other items of its kind; return the result after the commit.

        `owner` is the tenant that asked for it: if more writes wait than a group takes, tenants take turns.
        """
        return await self.put(write, item, durable=durable, owner=owner)

    def put(self, write: Write, item: Any, *, durable: bool = False, owner: str = "") -> "asyncio.Future[Any]":
        """Do the same for a caller with many items: no task is needed to wait for each."""
        return self._gather.put(None, _Write(write, item, durable, owner))

    async def close(self) -> None:
        """Commit the writes that have arrived."""
        await self._gather.close(finish_seconds=_CLOSE_SECONDS)

    async def _commit_or_divide(self, _: None, group: Sequence[_Write]) -> list[Any]:
        try:
            return await self._commit(group)
        except Exception as error:
            return await self._one_by_one(group, error)

    async def _commit(self, group: Sequence[_Write]) -> list[Any]:
        kinds: dict[Write, list[int]] = {}
        for index, item in enumerate(group):
            kinds.setdefault(item.write, []).append(index)

        def work(connection: Connection) -> list[Any]:
            results: list[Any] = [None] * len(group)
            for write, indexes in sorted(kinds.items(), key=lambda kind: kind[0] == self._last):
                for index, result in zip(
                    indexes, write(connection, [group[index].item for index in indexes]), strict=True
                ):
                    results[index] = result
            return results

        return await self._database.transact(work, durable=any(item.durable for item in group))

    async def _one_by_one(self, group: Sequence[_Write], error: Exception) -> list[Any]:
        """Commit the writes of a failed group one by one, so that a bad write fails alone."""
        if _is_silent(error) or (len(group) == 1 and not isinstance(error, IntegrityError)):
            return [as_unavailable(error, self._database) for _ in group]
        outcomes: list[Any] = []
        # If another gateway took an idempotency key at the same moment, the second try finds it.
        for item in group:
            try:
                outcomes += await self._commit([item])
            except Exception as own_error:
                outcomes.append(as_unavailable(own_error, self._database))
                if _is_silent(own_error):
                    # The writes before this one are committed, and their callers wait for the end of the group.
                    return outcomes + [as_unavailable(own_error, self._database) for _ in group[len(outcomes) :]]
        return outcomes


def _is_silent(error: Exception) -> bool:
    """Say whether the server does not answer. Then each further write would wait for it once more."""
    return isinstance(error, TimeoutError | PoolTimeout)
