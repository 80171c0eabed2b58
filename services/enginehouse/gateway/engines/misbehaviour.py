"""Counts what engines were seen to do that they must not, and quarantines one that goes on with it."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Counter

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.job import Status
from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.gateway.engines.breaker import NONSENSE
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.engines.transitions import Transitions
from enginehouse.gateway.ledger.rows import JobRow

_SUCCESSES_PER_MISDEED = 10
"""An engine more of whose jobs succeed for each misdeed that jobs may have caused is not stopped for a few of them."""
_PARTS = 60
"""Parts of the time over which is counted. What happened is forgotten with its part."""
_COUNTED = Counter(
    "enginehouse_gateway_misdeeds", "What engines were seen to do that they must not, by kind.", ["kind"]
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What one kind of misbehaviour says about an engine."""

    words: str
    is_hostile: bool = False
    """Whether no honest engine shows it: an operator has to look at it."""
    may_be_of_jobs: bool = True
    """Whether the inputs of jobs may cause it: then it stops no shared engine, since one tenant could stop it for all."""


_KINDS: Mapping[Misdeed, _Kind] = {
    Misdeed.DENIED_COMMANDS: _Kind(
        "commands that the broker refused to its credentials", is_hostile=True, may_be_of_jobs=False
    ),
    Misdeed.CRASHES_WHILE_STARTING: _Kind("ends of a replica before any had been healthy", may_be_of_jobs=False),
    Misdeed.MALFORMED_ANSWERS: _Kind("answers that are no results"),
    Misdeed.CRASHES: _Kind("ends of a replica after one had been healthy"),
    Misdeed.OUT_OF_MEMORY: _Kind("kills of a process because the memory of its container was used up"),
    Misdeed.HANGS: _Kind("restarts of a replica because a call hung"),
}


@dataclass(slots=True)
class _Lately:
    """How often something happened within the last `window_seconds`, which are kept in parts."""

    window_seconds: float
    clock: Callable[[], float]
    _parts: deque[tuple[float, int]] = field(default_factory=deque)
    """When each part began, and how often it happened within it."""
    _total: int = 0

    def add(self, times: int) -> None:
        """Note that it happened so many times now."""
        now = self.clock()
        self._forget(now)
        self._total += times
        if self._parts and now - self._parts[-1][0] < self.window_seconds / _PARTS:
            began, before = self._parts.pop()
            self._parts.append((began, before + times))
        else:
            self._parts.append((now, times))

    def count(self) -> int:
        """Return how often it happened."""
        self._forget(self.clock())
        return self._total

    def _forget(self, now: float) -> None:
        while self._parts and self._parts[0][0] < now - self.window_seconds:
            self._total -= self._parts.popleft()[1]


class Misbehaviour:
    """Counts misdeeds of each engine within the last `window_seconds`."""

    def __init__(
        self,
        catalogue: Catalogue,
        transitions: Transitions,
        *,
        window_seconds: float,
        enough: Mapping[Misdeed, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Quarantine an engine that was seen `enough` times doing something."""
        self._catalogue = catalogue
        self._transitions = transitions
        self._window_seconds = window_seconds
        self._enough = enough

        def new() -> _Lately:
            return _Lately(window_seconds, clock)

        self._seen: defaultdict[tuple[str, Misdeed], _Lately] = defaultdict(new)
        self._succeeded: defaultdict[str, _Lately] = defaultdict(new)
        """The jobs of each engine that succeeded."""

    def counts(self, engine_id: str) -> dict[str, int]:
        """Return how often an engine has done what lately; nothing that it has not done."""
        seen = {misdeed: self._seen.get((engine_id, misdeed)) for misdeed in Misdeed}
        return {str(misdeed): times for misdeed, lately in seen.items() if lately and (times := lately.count())}

    async def note(self, name: str, misdeed: Misdeed, times: int) -> KnownEngine:
        """Count what an engine was seen doing; quarantine it if it is enough. Raise EngineDoesNotExist."""
        engine = self._catalogue.resolve_any(name)
        await self._note(engine, misdeed, times)
        return engine

    async def note_end(self, engine: KnownEngine, row: JobRow) -> None:
        """Count how an attempt at a job ended, each attempt for itself."""
        if row.status is Status.SUCCEEDED:
            self._succeeded[engine.id].add(1)
        elif row.error and row.error.code in NONSENSE:
            await self._note(engine, Misdeed.MALFORMED_ANSWERS, 1)

    def start_anew(self, engine: KnownEngine) -> None:
        """Forget what a former version did, except what no honest one does."""
        self._forget(engine, [misdeed for misdeed, kind in _KINDS.items() if not kind.is_hostile])

    def _forget(self, engine: KnownEngine, misdeeds: list[Misdeed]) -> None:
        for misdeed in misdeeds:
            self._seen.pop((engine.id, misdeed), None)
        self._succeeded.pop(engine.id, None)

    async def _note(self, engine: KnownEngine, misdeed: Misdeed, times: int) -> None:
        if engine.state in (EngineState.QUARANTINED, EngineState.RETIRED):
            return  # What was still on its way when it was stopped.
        _COUNTED.labels(misdeed).inc(times)
        seen = self._seen[engine.id, misdeed]
        seen.add(times)
        counted, succeeded = seen.count(), self._successes(engine)
        if counted < self._enough[misdeed]:
            return
        if _KINDS[misdeed].may_be_of_jobs and (engine.is_shared or counted * _SUCCESSES_PER_MISDEED < succeeded):
            return
        self._forget(engine, list(Misdeed))
        await self._quarantine(engine, misdeed, counted, succeeded)

    def _successes(self, engine: KnownEngine) -> int:
        lately = self._succeeded.get(engine.id)
        return lately.count() if lately else 0

    async def _quarantine(self, engine: KnownEngine, misdeed: Misdeed, counted: int, succeeded: int) -> None:
        kind = _KINDS[misdeed]
        what = f"{counted} {kind.words} within {self._window_seconds / 60:g} minutes"
        if kind.may_be_of_jobs:
            what += f", while {succeeded} of its jobs succeeded"
        how = "" if kind.is_hostile else f" Deploy it repaired, or resume it: enginehouse engines resume {engine.id}"
        reason = f"Misbehaviour was counted: {what}.{how}"
        detail = f"by what was counted: {what}"
        await self._transitions.move(
            engine, EngineState.QUARANTINED, reason, by_operator=kind.is_hostile, detail=detail
        )
