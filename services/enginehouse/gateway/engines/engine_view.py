"""Shows an engine to a tenant that may use it."""

import asyncio
from collections.abc import Sequence

from pydantic import BaseModel, Field

from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.engines.misbehaviour import Misbehaviour
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.read import QueueCounts
from enginehouse.gateway.tenants.tenants import Caller

_STORES_AT_ONCE = 16


class WorkerCounts(BaseModel):
    """Workers of an engine whose heartbeat lives."""

    idle: int
    running: int


class Queue(BaseModel):
    """The jobs of an engine and the workers that run them."""

    jobs: QueueCounts
    workers: WorkerCounts


class EngineSummary(BaseModel):
    """An engine that the caller may use."""

    id: str
    version: str | None = None
    description: str = ""
    state: str
    reason: str | None = Field(
        None,
        description="Why it gets no jobs, or cannot work on them. Its owner and administrators read the last words of an "
        "engine that does not start.",
    )
    warning: str | None = Field(None, description="What slows its jobs, as its workers see it.")
    health: str = Field(description="healthy, unhealthy, asleep (none needed at present), or unknown.")
    queue: Queue | None = None


class EngineView(EngineSummary):
    """An engine that the caller may use, with its card."""

    card: EngineCard | None = None
    misbehaviour: dict[str, int] = Field(
        default_factory=dict,
        description="How often it was seen lately doing what quarantines it in the end. For its owner and administrators.",
    )


class EngineViews:
    """Shows engines: their state, health, queue and card."""

    def __init__(self, catalogue: Catalogue, ledger: Ledger, misbehaviour: Misbehaviour) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._misbehaviour = misbehaviour

    async def summaries(self, engines: Sequence[KnownEngine], caller: Caller) -> list[EngineSummary]:
        """Describe engines to `caller`, without their cards."""
        healths = await self.healths(engines)
        jobs = await self._ledger.read(read.queue_counts, [engine.id for engine in engines]) if engines else {}
        return [
            self._summary(engine, caller, health, jobs[engine.id])
            for engine, health in zip(engines, healths, strict=True)
        ]

    async def summary(self, engine: KnownEngine, caller: Caller) -> EngineSummary:
        """Describe an engine to `caller`, without its card."""
        (described,) = await self.summaries([engine], caller)
        return described

    @staticmethod
    def _summary(engine: KnownEngine, caller: Caller, health: str, jobs: QueueCounts) -> EngineSummary:
        idle = sum(1 for worker in engine.workers if not worker.in_hand)
        return EngineSummary(
            id=engine.id,
            version=engine.card.version if engine.card else None,
            description=engine.card.description if engine.card else "",
            state=engine.state,
            reason=engine.reason_for(caller),
            warning=next((worker.warning for worker in engine.workers if worker.warning), None),
            health=health,
            queue=Queue(jobs=jobs, workers=WorkerCounts(idle=idle, running=len(engine.workers) - idle)),
        )

    async def view(self, engine: KnownEngine, caller: Caller) -> EngineView:
        """Describe an engine to `caller`, with its card."""
        summary = await self.summary(engine, caller)
        sees = caller.is_admin or caller.name == engine.tenant
        counts = self._misbehaviour.counts(engine.id) if sees else {}
        return EngineView.model_construct(**dict(summary), card=engine.card, misbehaviour=counts)

    async def healths(self, engines: Sequence[KnownEngine]) -> list[str]:
        """Say how the workers of several engines are. Their stores are asked side by side."""
        limit = asyncio.Semaphore(_STORES_AT_ONCE)

        async def health_of(engine: KnownEngine) -> str:
            async with limit:
                return await self.health(engine)

        return await asyncio.gather(*(health_of(engine) for engine in engines))

    async def health(self, engine: KnownEngine) -> str:
        """Say how an engine's workers are, as `EngineSummary.health` shows it."""
        try:
            await self._catalogue.read_workers(engine)
        except EnginehouseError:
            return "unknown"
        if any(worker.healthy for worker in engine.workers):
            return "healthy"
        return "asleep" if engine.is_asleep else "unhealthy"
