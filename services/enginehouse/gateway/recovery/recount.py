"""Corrects this gateway's counters from the ledger, and wakes the dispatcher for waiting jobs."""

from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.tenants.limits import Limits


class Recount:
    """Counts backlogs and jobs in flight."""

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher, limits: Limits) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._limits = limits

    async def recount(self) -> None:
        """Count, and wake the dispatcher for every engine that has jobs waiting in the ledger."""
        self._dispatcher.backlog.replace(await self._ledger.read(read.backlogs))
        for engine_id in self._dispatcher.backlog:
            self._dispatcher.wake(engine_id)
        self._limits.in_flight = await self._ledger.read(read.in_flight)
