"""Quarantines and resumes engines, for operators."""

from enginehouse.contracts.engine import EngineState
from enginehouse.gateway.engines.breaker import Breaker
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.engines.transitions import Transitions


class EngineOperations:
    """Carries out operators' decisions. Raises EngineDoesNotExist for an unknown engine."""

    def __init__(self, catalogue: Catalogue, transitions: Transitions) -> None:
        self._catalogue = catalogue
        self._transitions = transitions

    async def quarantine(self, engine_id: str, reason: str) -> KnownEngine:
        """Stop delivery: the gateway hands over no more jobs, and the runners begin no more."""
        engine = self._catalogue.resolve_any(engine_id)
        await self._transitions.move(engine, EngineState.QUARANTINED, reason)
        return engine

    async def resume(self, engine_id: str) -> KnownEngine:
        """Give an engine its jobs again, with an empty breaker."""
        engine = self._catalogue.resolve_any(engine_id)
        engine.breaker = Breaker()
        await self._transitions.let_go_on(engine)
        await self._transitions.move(engine, EngineState.ACTIVE)
        return engine
