"""Corrects this gateway's counters from the ledger's counts, checks those, and wakes the dispatcher for waiting jobs."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

import structlog

from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger import counts
from enginehouse.gateway.ledger.counts import EngineCount, TenantCount
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.tenants.limits import Limits
from enginehouse.in_turn import InTurn

log = structlog.get_logger()

K = TypeVar("K", str, tuple[str, str])

_TAKEN_OVER_SECONDS = 30.0
"""The tenants' counts are taken over at least so often, although no engine's count has changed."""
_RESTS_PER_CHECK = 300
"""A check counts the jobs of one engine, which takes the longer the more there are; then it rests so many times as long."""


class Recount:
    """Takes over how many jobs wait and are in flight."""

    def __init__(self, ledger: Ledger, catalogue: Catalogue, dispatcher: Dispatcher, limits: Limits) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._dispatcher = dispatcher
        self._limits = limits
        self._of_engines: dict[str, EngineCount] = {}
        """The engines' counts at the last look."""
        self._taken_over_at = -_TAKEN_OVER_SECONDS
        self._check_at = 0.0
        self._checked = InTurn(1)

    async def recount(self) -> None:
        """Take over the counts, and wake the dispatcher for every engine that has jobs waiting and room for them."""
        of_engines = await self._ledger.read(counts.of_engines)
        now = time.monotonic()
        if of_engines != self._of_engines or now - self._taken_over_at >= _TAKEN_OVER_SECONDS:
            await self._take_over()
            self._of_engines, self._taken_over_at = of_engines, now
        for engine_id, count in of_engines.items():
            if count.waiting and count.handed_over < self._dispatcher.window(engine_id):
                self._dispatcher.wake(engine_id)
        if now >= self._check_at:
            await self._check()

    async def _take_over(self) -> None:
        backlog, limits = self._dispatcher.backlog, self._limits
        waiting_before, in_flight_before = backlog.counts(), dict(limits.in_flight)
        counted = await self._ledger.read(counts.of_tenants)
        waiting = {(each.engine, each.tenant): each.waiting for each in counted if each.waiting}
        backlog.replace(_brought_up_to_date(waiting, waiting_before, backlog.counts()))
        limits.in_flight = _brought_up_to_date(_in_flight(counted), in_flight_before, limits.in_flight)

    async def _check(self) -> None:
        """Compare the counts of one engine with its jobs."""
        began = time.monotonic()
        for engine_id in self._checked.pick(engine.id for engine in self._catalogue):
            if wrong := await self._ledger.read(counts.wrong, engine_id):
                log.error(
                    f"The ledger's counts of {engine_id} were wrong, and are corrected",
                    action="counts_wrong",
                    engine_id=engine_id,
                    tenants=len(wrong),
                )
                await self._ledger.correct_counts(engine_id)
        ended = time.monotonic()
        self._check_at = ended + _RESTS_PER_CHECK * (ended - began)


def _in_flight(counted: list[TenantCount]) -> dict[str, int]:
    """Add up, for each tenant, the jobs that were accepted and have not ended."""
    totals = Counter[str]()
    for each in counted:
        totals[each.tenant] += each.waiting + each.handed_over
    return totals


def _brought_up_to_date(counted: Mapping[K, int], before: Mapping[K, int], now: Mapping[K, int]) -> dict[K, int]:
    """Return what the ledger counted, with what this gateway has noted from `before` until `now`, while it counted.

    A job that was committed just before and noted meanwhile is counted twice, until the next change is taken over.
    """
    numbers = {key: counted.get(key, 0) + now.get(key, 0) - before.get(key, 0) for key in counted.keys() | now.keys()}
    return {key: number for key, number in numbers.items() if number > 0}
