"""Says how many unfinished jobs each engine has that it could work on: whoever scales engines asks."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from enginehouse.background import Background
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EngineDoesNotExist, EnginehouseError, Unavailable
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.ledger import counts
from enginehouse.gateway.ledger.counts import EngineCount
from enginehouse.gateway.ledger.ledger import Ledger

_SHARED_SECONDS = 1.0
_NONE = EngineCount("", 0, 0)


class _Counted(NamedTuple):
    """What the ledger said, or why it said nothing."""

    found: Mapping[str, EngineCount] | EnginehouseError
    at: float
    """When, on the event loop's clock."""


class UnfinishedJobs:
    """Counts for all engines in one query, whose answer all callers of the next second share."""

    def __init__(self, ledger: Ledger, catalogue: Catalogue, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._clock = clock
        self._counted: _Counted | None = None
        self._counting: asyncio.Task[_Counted] | None = None
        self._background = Background()

    async def of(self, engine_id: str) -> int:
        """Return how many jobs of an engine are in its hands, or wait and may be handed over now.

        Of a paused engine these are its probes; a quarantined or removed one has none. Raise EngineDoesNotExist, or
        Unavailable if the ledger does not answer, or engines are not known yet.
        """
        engine = self._catalogue.get(engine_id)
        if engine is None or engine.is_trial:
            if not self._catalogue.loaded.is_set():
                raise Unavailable("the engines are not known yet")
            raise EngineDoesNotExist(f"There is no engine {engine_id}")
        count = (await self._shared()).get(engine_id, _NONE)
        if engine.state in (EngineState.QUARANTINED, EngineState.RETIRED):
            return 0
        if engine.state is EngineState.PAUSED:
            return count.handed_over + min(count.waiting, self._catalogue.window(engine_id))
        return count.handed_over + count.waiting

    async def close(self) -> None:
        """Give up a query that has no answer yet."""
        await self._background.close()

    async def _shared(self) -> Mapping[str, EngineCount]:
        now = asyncio.get_running_loop().time()
        if self._counted is None or now - self._counted.at >= _SHARED_SECONDS:
            if self._counting is None or self._counting.done():
                self._counting = self._background.start(self._count())
            # A caller that goes away must not take the answer of the others along.
            self._counted = await asyncio.shield(self._counting)
        if isinstance(self._counted.found, EnginehouseError):
            raise self._counted.found
        return self._counted.found

    async def _count(self) -> _Counted:
        found: Mapping[str, EngineCount] | EnginehouseError
        try:
            found = await self._ledger.read(counts.due_of_engines, self._clock())
        except EnginehouseError as error:
            found = error
        return _Counted(found, asyncio.get_running_loop().time())
