"""Quarantines engines for operators, and resumes them for operators and owners."""

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import Forbidden, WrongState
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
        """Stop an engine: it gets no more jobs, and whoever runs it stops it and takes its credentials back."""
        engine = self._catalogue.resolve_any(engine_id)
        await self._transitions.move(engine, EngineState.QUARANTINED, reason, by_operator=True)
        return engine

    async def resume(self, caller: Caller, name: str, *, unless_by_operator: bool = False) -> KnownEngine:
        """Give an engine that gets no jobs its jobs again, with an empty breaker.

        Raise Forbidden if `caller` may not, or if an operator has decided and this call is not to undo it; WrongState if
        the engine is active.
        """
        engine = self._catalogue.resolve_for(name, caller)
        if not caller.is_admin and engine.tenant != caller.name:
            raise Forbidden(f"{engine.id} is not yours: only its owner or an administrator can resume it")
        # What another gateway has decided since it was last asked.
        await self._catalogue.sync_states()
        keeps_operators = unless_by_operator or not caller.is_admin
        await self._transitions.resume(engine, lambda: _check_resumable(engine, keeps_operators=keeps_operators))
        return engine


def _check_resumable(engine: KnownEngine, *, keeps_operators: bool) -> None:
    if not engine.takes_no_jobs:
        raise WrongState(f"{engine.id} is {engine.state}: only an engine that is paused or quarantined can be resumed")
    if engine.by_operator and keeps_operators:
        raise Forbidden(f"{engine.id} is quarantined ({engine.reason}): only an administrator can resume it")
