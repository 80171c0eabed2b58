"""Corrects this gateway's counters from the ledger, and wakes the dispatcher for waiting jobs."""

from collections.abc import Mapping
from typing import TypeVar

from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.tenants.limits import Limits

K = TypeVar("K", str, tuple[str, str])


class Recount:
    """Counts backlogs and jobs in flight."""

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher, limits: Limits) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._limits = limits

    async def recount(self) -> None:
        """Count, and wake the dispatcher for every engine that has jobs waiting in the ledger."""
        backlog, limits = self._dispatcher.backlog, self._limits
        before = backlog.counts()
        counted = await self._ledger.read(read.backlogs)
        backlog.replace(_brought_up_to_date(counted, before, backlog.counts()))
        for engine_id in backlog:
            self._dispatcher.wake(engine_id)
        unended_before = dict(limits.in_flight)
        unended = await self._ledger.read(read.in_flight)
        limits.in_flight = _brought_up_to_date(unended, unended_before, limits.in_flight)


def _brought_up_to_date(counted: Mapping[K, int], before: Mapping[K, int], now: Mapping[K, int]) -> dict[K, int]:
    """Return what the ledger counted, with what this gateway has noted from `before` until `now`, while it counted.

    A job that was committed just before and noted meanwhile is counted twice, until the next sweep.
    """
    numbers = {key: counted.get(key, 0) + now.get(key, 0) - before.get(key, 0) for key in counted.keys() | now.keys()}
    return {key: number for key, number in numbers.items() if number > 0}
