"""The engines that a gateway knows, and which of them a name means."""

from collections.abc import Iterator

from enginehouse.audit.calls import note_concerned
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EngineDoesNotExist, EngineRemoved, Forbidden, InvalidName
from enginehouse.contracts.names import PLATFORM_TENANT, engine_of, is_trial, resolve_candidates, trial_of
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.tenants.tenants import Caller


class KnownEngines:
    """Holds the engines and their versions on trial, and resolves their names."""

    def __init__(self) -> None:
        """Begin with none."""
        self._engines: dict[str, KnownEngine] = {}

    def __iter__(self) -> Iterator[KnownEngine]:
        return iter(list(self._engines.values()))  # Entries come while others iterate.

    def get(self, engine_id: str) -> KnownEngine | None:
        """Return an engine by its full id, even if it is retired."""
        return self._engines.get(engine_id)

    def behind(self, engine: KnownEngine) -> KnownEngine:
        """Return the engine of a version on trial; an engine itself otherwise."""
        return self._engines.get(engine_of(engine.id), engine)

    def ended_trials(self) -> list[tuple[KnownEngine, KnownEngine]]:
        """Return the trials that have ended, each with its engine, which goes on."""
        return [
            (trial, engine)
            for trial in self
            if trial.is_trial
            and trial.state == EngineState.RETIRED
            and (engine := self.behind(trial)).state != EngineState.RETIRED
        ]

    def resolve(self, name: str, tenant: str, *, is_admin: bool = False) -> KnownEngine:
        """Return the engine, or version on trial, that `name` means in a request of `tenant`.

        Raise EngineRemoved, or EngineDoesNotExist if there is none, or if it is another tenant's; Forbidden if only the
        version on trial is.
        """
        if is_trial(name):
            return self._resolve_trial(engine_of(name), tenant, is_admin)
        known = self._known(name, tenant)
        for engine in known:
            if engine.state != EngineState.RETIRED:
                note_concerned(engine=engine.id)
                return engine
        raise EngineRemoved(f"{known[0].id} was removed")

    def _known(self, name: str, tenant: str) -> list[KnownEngine]:
        """Return the engines that `name` may mean, its own first, removed ones too. Raise EngineDoesNotExist if none."""
        try:
            candidates = resolve_candidates(name, tenant)
        except InvalidName as error:
            raise EngineDoesNotExist(f"No engine {name[:60]!r}: {error}") from None
        allowed = [str(candidate) for candidate in candidates if candidate.tenant in (tenant, PLATFORM_TENANT)]
        known = [engine for engine_id in allowed if (engine := self._engines.get(engine_id))]
        if not known:
            raise EngineDoesNotExist(f"No engine {name[:60]!r} that {tenant} may use")
        return known

    def _resolve_trial(self, name: str, tenant: str, is_admin: bool) -> KnownEngine:
        engine = self.resolve_any(name) if is_admin and "--" in name else self.resolve(name, tenant)
        if not is_admin and engine.tenant != tenant:
            raise Forbidden(
                f"{engine.id} is not yours: only its owner or an administrator can use its version on trial"
            )
        trial = self._engines.get(trial_of(engine.id))
        if trial is None or trial.state == EngineState.RETIRED:
            raise EngineDoesNotExist(f"No version of {engine.id} is on trial; deploy one with --no-promote")
        note_concerned(engine=trial.id)
        return trial

    def resolve_for(self, name: str, caller: Caller) -> KnownEngine:
        """Return the engine that `name` means; for an administrator also another tenant's, by its full id."""
        if caller.is_admin and "--" in name:
            return self.resolve_any(name)
        return self.resolve(name, caller.name, is_admin=caller.is_admin)

    def resolve_past(self, name: str, caller: Caller) -> KnownEngine:
        """Return the engine that `name` means, or, if there is none any longer, the removed engine or the ended trial."""
        try:
            return self.resolve(name, caller.name, is_admin=caller.is_admin)
        except EngineDoesNotExist:
            for engine in self._known(engine_of(name), caller.name):
                past = self._engines.get(trial_of(engine.id)) if is_trial(name) else engine
                if past:
                    return past
            raise

    def resolve_any(self, name: str) -> KnownEngine:
        """Return an engine of any tenant by its full id, for an administrator; raise EngineDoesNotExist if there is none."""
        if is_trial(name):
            return self._resolve_trial(engine_of(name), PLATFORM_TENANT, is_admin=True)
        engine = self._engines.get(name)
        if engine is None or engine.state == EngineState.RETIRED:
            raise EngineDoesNotExist(f"No engine {name[:60]!r}; name it as '<tenant>--<engine>'")
        note_concerned(engine=engine.id)
        return engine

    def shown_to(self, name: str, caller: Caller) -> KnownEngine:
        """Return the engine that `name` means; to an administrator also one that was removed, by its full id."""
        removed = self._engines.get(name) if caller.is_admin else None
        return removed or self.resolve_for(name, caller)

    def visible_to(self, tenant: str) -> list[KnownEngine]:
        """Return the engines that a tenant may use, by id."""
        return sorted(
            (
                engine
                for engine in self
                if engine.state != EngineState.RETIRED
                and (engine.tenant == tenant or (engine.is_shared and not engine.is_trial))
            ),
            key=lambda engine: engine.id,
        )
