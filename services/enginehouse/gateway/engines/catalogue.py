"""Which engines there are: fed by what the gateway's own sidecar has loaded, remembered in the ledger."""

import asyncio
import contextlib
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from enginehouse.contracts.engine import CARD_MAX_BYTES, EngineCard, EngineState, Heartbeat, WorkerList
from enginehouse.contracts.errors import EngineDoesNotExist, EnginehouseError, InvalidName, Unavailable
from enginehouse.contracts.names import (
    PLATFORM_TENANT,
    SLOTS,
    WORKERS_KEY,
    EngineId,
    card_key,
    engine_of_results_component,
    resolve_candidates,
    results_component,
    worker_key,
)
from enginehouse.gateway.engines.breaker import Breaker, Phase
from enginehouse.gateway.engines.input_schema import InputSchema
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.sidecar.base import Sidecar, StateItem

log = structlog.get_logger()

M = TypeVar("M", bound=BaseModel)

DEFAULT_CARD = EngineCard(engine="", slot="a", version="")
"""What holds for an engine that shows no card."""
_ABSENT_POLLS = 5
"""A sidecar that restarts shows its components one after the other: absent for so many polls means removed."""
_WORKERS_FRESH_SECONDS = 2.0
_CARDS_AT_ONCE = 16
_CARD_PAUSE_SECONDS, _LONGEST_CARD_PAUSE_SECONDS = 1.0, 60.0
"""A card that comes is announced; looking for it too is for an announcement that was lost."""


@dataclass
class KnownEngine:
    """An engine as the gateway sees it now."""

    id: str
    state: EngineState = EngineState.ACTIVE
    reason: str | None = None
    probe_at: float | None = None
    """While paused by its breaker: from when on one job at a time is let through to see."""
    breaker: Breaker = field(default_factory=Breaker)
    card: EngineCard | None = None
    schema: InputSchema | None = None
    workers: list[Heartbeat] = field(default_factory=list)
    workers_read_at: float = 0
    absent_polls: int = 0
    card_pause_seconds: float = _CARD_PAUSE_SECONDS
    """Until the card of an engine that shows none is looked for again; doubles each time."""
    card_due_at: float = 0
    is_saved: bool = False
    """Whether the ledger knows of it since this start."""
    set_at: float = 0
    """When this gateway last decided about it."""

    @property
    def tenant(self) -> str:
        """Whose engine it is."""
        return EngineId.parse(self.id).tenant

    @property
    def problem(self) -> str | None:
        """Why its jobs wait although nobody stopped it."""
        if self.absent_polls >= _ABSENT_POLLS:
            return f"The gateway's sidecar could not load {results_component(self.id)}: its log says why"
        if self.workers and not any(worker.subscribed for worker in self.workers):
            return "None of its workers receives jobs: the logs of its sidecars say why"
        return None

    @property
    def takes_no_jobs(self) -> bool:
        """Whether its jobs wait, with status_reason engine_paused."""
        return self.state in (EngineState.PAUSED, EngineState.QUARANTINED)

    @property
    def is_probing(self) -> bool:
        """Whether single jobs are let through to see if it works again."""
        return self.state == EngineState.PAUSED and self.probe_at is not None and time.time() >= self.probe_at

    @property
    def phase(self) -> Phase:
        """What the end of an attempt means now."""
        if self.state != EngineState.PAUSED:
            return Phase.OPEN
        return Phase.PROBING if self.is_probing else Phase.PAUSED

    def set_card(self, card: EngineCard) -> None:
        """Take over a card; an unusable schema is ignored: the engine checks its inputs itself, too."""
        self.card = card
        try:
            self.schema = InputSchema(card.input_schema) if card.input_schema else None
        except Exception as error:
            self.schema = None
            log.warning(
                f"The input schema on the card of {self.id} cannot be used: {str(error)[:200]}",
                action="card_schema_unusable",
                engine=self.id,
            )


def _parsed(kind: type[M], items: Iterable[StateItem]) -> list[M]:
    """Those that can be read: what one engine's store holds must stop nothing else."""
    found = []
    for item in items:
        with contextlib.suppress(ValidationError):
            found.append(kind.model_validate_json(item.value))
    return found


class Engines:
    """The engines' list, cards and heartbeats."""

    def __init__(
        self, sidecar: Sidecar, ledger: Ledger, *, window_min: int, window_factor: int, bundles: Path | None = None
    ) -> None:
        self._sidecar = sidecar
        self._ledger = ledger
        self._window_min = window_min
        self._window_factor = window_factor
        self._bundles = bundles
        self._engines: dict[str, KnownEngine] = {}
        self.loaded = asyncio.Event()

    async def restore(self) -> None:
        """Start from the last known list."""
        for row in await self._ledger.load_engines():
            engine = self._engines[row.id] = KnownEngine(row.id, EngineState(row.state), row.reason, row.probe_at)
            if row.card:
                engine.set_card(EngineCard.model_validate_json(row.card))

    def __iter__(self) -> Any:
        return iter(self._engines.values())

    def get(self, engine_id: str) -> KnownEngine | None:
        """An engine by its full id, retired ones too."""
        return self._engines.get(engine_id)

    def resolve(self, name: str, tenant: str) -> KnownEngine:
        """The engine that `name` means in a request of `tenant`; EngineDoesNotExist also for others' engines."""
        try:
            candidates = resolve_candidates(name, tenant)
        except InvalidName as error:
            raise EngineDoesNotExist(f"No engine {name[:60]!r}: {error}") from None
        for candidate in candidates:
            engine = self._engines.get(str(candidate))
            if engine and engine.state != EngineState.RETIRED and candidate.tenant in (tenant, PLATFORM_TENANT):
                return engine
        raise EngineDoesNotExist(f"No engine {name[:60]!r} that {tenant} may use")

    def resolve_any(self, name: str) -> KnownEngine:
        """An engine of any tenant by its full id, for an administrator."""
        engine = self._engines.get(name)
        if engine is None or engine.state == EngineState.RETIRED:
            raise EngineDoesNotExist(f"No engine {name[:60]!r}; name it as '<tenant>--<engine>'")
        return engine

    def visible_to(self, tenant: str) -> list[KnownEngine]:
        """The engines a tenant may use."""
        return sorted(
            (
                e
                for e in self._engines.values()
                if e.state != EngineState.RETIRED and e.tenant in (tenant, PLATFORM_TENANT)
            ),
            key=lambda engine: engine.id,
        )

    def window(self, engine_id: str) -> int:
        """How many jobs of an engine may be handed over and unfinished: enough to keep its workers busy."""
        engine = self._engines.get(engine_id)
        if engine is None or engine.state in (EngineState.QUARANTINED, EngineState.RETIRED):
            return 0
        if engine.state == EngineState.PAUSED:
            return 1 if engine.is_probing else 0
        concurrency = sum(worker.concurrency for worker in engine.workers) or (engine.card or DEFAULT_CARD).concurrency
        return max(self._window_min, self._window_factor * concurrency)

    async def refresh(self) -> None:
        """Compare with what the sidecar has loaded; read the cards of new engines. Unavailable leaves all as it is."""
        components = (await self._sidecar.metadata()).components
        present = {found for name in components if (found := engine_of_results_component(name))}
        new = []
        for engine_id in present:
            engine = self._engines.get(engine_id)
            if engine is None:
                self._engines[engine_id] = KnownEngine(engine_id)
                new.append(engine_id)
            elif engine.state == EngineState.RETIRED:
                engine.absent_polls = 0
                # Who was quarantined is not let out by being removed and deployed again.
                await self.set_state(
                    engine, EngineState.QUARANTINED if engine.reason else EngineState.ACTIVE, engine.reason
                )
                new.append(engine_id)
            else:
                engine.absent_polls = 0
        for engine in self._engines.values():
            if engine.id not in present and engine.state != EngineState.RETIRED:
                engine.absent_polls += 1
                if engine.absent_polls == _ABSENT_POLLS:
                    log.warning(f"Engine {engine.id} is not loaded any more", action="engine_absent", engine=engine.id)
                # A file that the sidecar cannot load takes nobody's jobs away: they wait until it is mended.
                if engine.absent_polls >= _ABSENT_POLLS and not self._has_bundle(engine.id):
                    await self.set_state(
                        engine, EngineState.RETIRED, engine.reason if engine.state == EngineState.QUARANTINED else None
                    )
        without_card = [
            engine.id for engine in self._engines.values() if engine.id in present and self._is_card_due(engine)
        ]
        limit = asyncio.Semaphore(_CARDS_AT_ONCE)

        async def read(engine_id: str) -> None:
            async with limit:
                await self.read_card(engine_id)

        await asyncio.gather(*(read(engine_id) for engine_id in dict.fromkeys([*new, *without_card])))
        self.loaded.set()

    def _has_bundle(self, engine_id: str) -> bool:
        return self._bundles is not None and (self._bundles / engine_id).is_dir()

    @staticmethod
    def _is_card_due(engine: KnownEngine) -> bool:
        if engine.card is not None or engine.card_due_at > time.monotonic():
            return False
        # Spread, so that a thousand engines without a card are not all asked in the same moment.
        engine.card_due_at = time.monotonic() + engine.card_pause_seconds * random.uniform(0.5, 1.0)  # noqa: S311
        engine.card_pause_seconds = min(2 * engine.card_pause_seconds, _LONGEST_CARD_PAUSE_SECONDS)
        return True

    async def set_state(
        self, engine: KnownEngine, state: EngineState, reason: str | None = None, probe_at: float | None = None
    ) -> None:
        """Decide, for all gateways, whether an engine gets jobs."""
        changed = engine.state != state
        engine.state, engine.reason, engine.probe_at, engine.set_at = state, reason, probe_at, time.monotonic()
        await self._ledger.set_engine_state(engine.id, state, reason, probe_at)
        if changed:
            log.info(f"Engine {engine.id} is {state}", action=f"engine_{state}", engine=engine.id, reason=reason)

    async def sync_states(self) -> None:
        """Take over what other gateways, or an operator, decided."""
        began = time.monotonic()
        for row in await self._ledger.load_engine_states():
            engine = self._engines.get(row.id)
            # What was decided here meanwhile, the rows that were read may not show yet.
            if engine is not None and engine.set_at < began:
                engine.state, engine.reason, engine.probe_at = EngineState(row.state), row.reason, row.probe_at

    async def _save(self, engine: KnownEngine) -> None:
        await self._ledger.save_engine(engine.id, engine.card.model_dump_json() if engine.card else None)

    async def read_card(self, engine_id: str) -> None:
        """Read an engine's card again: of the slot that receives its jobs, else of the first that has one."""
        engine = self._engines.get(engine_id)
        if engine is None:
            return
        try:
            items = await self._sidecar.read_many(results_component(engine_id), [card_key(slot) for slot in SLOTS])
            await self.read_workers(engine, force=True)
        except EnginehouseError as error:
            log.warning(f"The card of {engine_id} cannot be read: {error}", action="card_unread", engine=engine_id)
            return
        cards = {}
        for slot in SLOTS:
            item = items.get(card_key(slot))
            if item and len(item.value) <= CARD_MAX_BYTES:
                try:
                    cards[slot] = EngineCard.model_validate_json(item.value)
                except ValidationError:
                    log.warning(f"The card of {engine_id} is malformed", action="card_malformed", engine=engine_id)
        subscribed = next((worker.slot for worker in engine.workers if worker.subscribed), None)
        card = cards.get(subscribed) if subscribed else None
        card = card or next(iter(cards.values()), None)
        if card and card != engine.card:
            engine.set_card(card)
            log.info(f"Engine {engine_id} shows its card", action="card_read", engine=engine_id, version=card.version)
        if not engine.is_saved or card:
            await self._save(engine)
            engine.is_saved = True

    async def read_workers(self, engine: KnownEngine, *, force: bool = False) -> list[Heartbeat]:
        """The workers whose heartbeat lives, at most two seconds old."""
        if not force and time.monotonic() - engine.workers_read_at < _WORKERS_FRESH_SECONDS:
            return engine.workers
        store = results_component(engine.id)
        item = await self._sidecar.read(store, WORKERS_KEY)
        known = _parsed(WorkerList, [item] if item else [])
        names = [name for workers in known for name in workers.workers]
        engine.workers = _parsed(
            Heartbeat, (await self._sidecar.read_many(store, [worker_key(name) for name in names])).values()
        )
        engine.workers_read_at = time.monotonic()
        return engine.workers

    async def run(self, poll_seconds: float) -> None:
        """Refresh for ever."""
        while True:
            try:
                await self.sync_states()
                await self.refresh()
            except Unavailable as error:
                log.warning(f"The engines' list stays as it was: {error}", action="engines_kept")
            except Exception:
                log.exception("The engines' list could not be compared", action="engines_failed")
            await asyncio.sleep(poll_seconds)
