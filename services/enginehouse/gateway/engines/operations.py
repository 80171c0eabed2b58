"""Quarantines engines for operators, and resumes them for operators and owners."""

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import Forbidden
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.engines.transitions import Transitions
from enginehouse.gateway.tenants.tenants import Caller


class EngineOperations:
    """Carries out decisions about engines. Raises EngineDoesNotExist for an engine that the caller does not know."""

    def __init__(self, catalogue: Catalogue, transitions: Transitions) -> None:
        self._catalogue = catalogue
        self._transitions = transitions

    async def quarantine(self, engine_id: str, reason: str) -> KnownEngine:
        """Stop delivery: the gateway hands over no more jobs, and the runners begin no more."""
        engine = self._catalogue.resolve_any(engine_id)
        await self._transitions.move(engine, EngineState.QUARANTINED, reason, by_operator=True)
        return engine

    async def resume(self, caller: Caller, name: str) -> KnownEngine:
        """Give an engine its jobs again, with an empty breaker. Raise Forbidden if `caller` may not."""
        engine = self._resumable(caller, name)
        await self._transitions.resume(engine)
        return engine

    def _resumable(self, caller: Caller, name: str) -> KnownEngine:
        engine = self._catalogue.resolve_for(name, caller)
        if not caller.is_admin and engine.tenant != caller.name:
            raise Forbidden(f"{engine.id} is not yours: only its owner or an administrator can resume it")
        if not caller.is_admin and engine.by_operator:
            raise Forbidden(
                f"An operator quarantined {engine.id} ({engine.reason}): only an administrator can resume it"
            )
        return engine
