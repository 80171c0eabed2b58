"""Lists the engines: learns them from the components of the gateway's own sidecar, and remembers them in the ledger."""

import asyncio
import heapq
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import structlog

from enginehouse.contracts.engine import EngineCard, EngineState, Heartbeat
from enginehouse.contracts.errors import EnginehouseError, Unavailable
from enginehouse.contracts.names import engine_of, engine_of_results_component, engine_of_retired_component, trial_of
from enginehouse.gateway.engines.card_reader import CardReader
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.engines.known_engines import KnownEngines
from enginehouse.gateway.engines.trials import card_of_active, card_of_trial, has_ended, is_on_trial
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.store_budget import StoreBudget
from enginehouse.sidecar.base import Sidecar

log = structlog.get_logger()

_CARDS_AT_ONCE = 16
_WITHOUT_CARD_AT_ONCE = 4
"""Engines without a card that are looked at in one second. Runners announce cards: looking finds one whose announcement was lost."""
_LOOK_PAUSE_PER_COMPONENT_SECONDS = 0.003
"""A look at the sidecar costs about 30 µs of processor time for each component, here and there: so all looks cost 1 %."""
_ANNOUNCED_SECONDS = 30.0
"""So long is the sidecar asked every second for an engine whose runner was heard of, and that it does not show yet."""
_WITHOUT_JOBS = (EngineState.QUARANTINED, EngineState.RETIRED)
_LONGEST_CARD_PAUSE_SECONDS = 60.0
_CLOCKS_DIFFER_SECONDS = 60.0
"""By so much gateways' clocks may differ, so that a look at the engines' new rows finds what each has written."""
_ALL_STATES_SECONDS = 30.0
"""After this time all rows are read again: clocks may differ by more."""


class Catalogue(KnownEngines):
    """Keeps the engines' states, cards and workers up to date."""

    def __init__(
        self,
        sidecar: Sidecar,
        ledger: Ledger,
        budget: StoreBudget,
        *,
        window_min: int,
        window_factor: int,
        bundles: Path | None = None,
    ) -> None:
        """Take `bundles` as the folder of engines' bundles: an engine is not removed while its bundle is there."""
        super().__init__()
        self._sidecar = sidecar
        self._ledger = ledger
        self._budget = budget
        self._reader = CardReader(sidecar)
        self._window_min = window_min
        self._window_factor = window_factor
        self._bundles = bundles
        self._updated_at: dict[str, float] = {}
        """When each engine's row in the ledger was written last, as far as this gateway has noticed."""
        self._news: set[str] = set()
        """Engines of which another gateway may have read a new card: a runner's announcement reaches one of them."""
        self.on_deployment: Callable[[KnownEngine], Awaitable[None]] = _do_nothing
        """Called when an engine that is known shows the card of another deployment."""
        self.on_trial: Callable[[str], Awaitable[None]] = _do_nothing
        """Called with the address of a version on trial, before it gets jobs."""
        self.loaded = asyncio.Event()
        """Set when the engines have been compared with the sidecar for the first time."""
        self._components: frozenset[str] = frozenset()
        """What the sidecar had loaded when it was last asked."""
        self._reachable: frozenset[str] = frozenset()
        """Engines whose stores were among it."""
        self._retiring: frozenset[str] = frozenset()
        """Engines that it shows as being removed."""
        self._look_at = 0.0
        """When the sidecar is asked again, on the monotonic clock."""
        self._announced: dict[str, float] = {}
        """Engines that the sidecar does not show yet, although their runner was heard of, and until when each is waited for."""
        self._synced_at = 0.0
        """When the engines' rows were read last, on the monotonic clock."""
        self._all_states_at = 0.0
        """When all rows are read again, on the monotonic clock."""

    async def restore(self) -> None:
        """Start from the engines that the ledger remembers."""
        for row in await self._ledger.read(read.known_engines):
            self._updated_at[row.id] = row.updated_at
            engine = self._engines[row.id] = KnownEngine(row.id)
            engine.set_state(row.state, row.reason, row.probe_at, by_operator=row.by_operator)
            engine.is_saved = True
            if row.card:
                engine.set_card(EngineCard.model_validate_json(row.card))

    def forget_engines_of(self, tenant: str) -> None:
        """Forget the removed engines of a tenant that the sidecar does not show any longer."""
        for engine in list(self):
            if engine.tenant == tenant and engine.state is EngineState.RETIRED and engine.id not in self._reachable:
                del self._engines[engine.id]

    def can_reach(self, engine_id: str) -> bool:
        """Say whether the records of an engine's jobs can be read and written."""
        return engine_of(engine_id) in self._reachable

    def window(self, engine_id: str) -> int:
        """Return how many jobs of an engine may be handed over and unfinished: enough to keep its workers busy."""
        engine = self._engines.get(engine_id)
        if engine is None or engine.state in _WITHOUT_JOBS or self.behind(engine).state in _WITHOUT_JOBS:
            return 0
        if engine.state == EngineState.PAUSED:
            return engine.probes_at_once if engine.is_probing else 0
        return max(self._window_min, self._window_factor * engine.concurrency)

    def workers_of_all_slots(self, engine_id: str) -> Sequence[Heartbeat]:
        """Return the workers of an engine that were seen last, those of its other version included."""
        engine = self._engines.get(engine_id)
        return engine.workers_of_all_slots if engine else ()

    async def refresh(self) -> None:
        """Compare the engines with the sidecar's components and read due cards.

        Raise Unavailable, and change nothing, if the sidecar does not answer.
        """
        self._take_components((await self._sidecar.metadata()).components)
        present, retired = self._reachable, self._retiring
        for engine_id in retired:
            await self._retire(engine_id)
        changed = [engine_id for engine_id in present - retired if not self._is_as_before(engine_id)]
        appeared = [engine_id for engine_id in changed if await self._is_new(engine_id)]
        for engine in self:
            if engine_of(engine.id) not in present and engine.state != EngineState.RETIRED:
                await self._note_absent(engine)
        await self._read_cards(appeared)
        self._look_at = time.monotonic() + _LOOK_PAUSE_PER_COMPONENT_SECONDS * len(self._components)
        self.loaded.set()

    async def _read_cards(self, appeared: Iterable[str] = ()) -> None:
        """Read the cards of engines that have just appeared, of those of which there is news, and a few that are due."""
        due = self._without_card()
        # Nobody announces the end of a trial whose processes are gone.
        due += [engine_of(engine.id) for engine in self if engine.is_trial and engine.state != EngineState.RETIRED]
        news = self._news & self._reachable
        self._news -= (
            news  # What the sidecar does not show yet stays: it was perhaps another gateway that saw it first.
        )
        limit = asyncio.Semaphore(_CARDS_AT_ONCE)

        async def read_one(engine_id: str) -> None:
            async with limit:
                await self.read_card(engine_id)

        await asyncio.gather(*(read_one(engine_id) for engine_id in dict.fromkeys([*appeared, *due, *news])))

    def _take_components(self, components: frozenset[str]) -> None:
        """Take over what the sidecar has loaded."""
        if components != self._components:
            self._reachable = frozenset(found for name in components if (found := engine_of_results_component(name)))
            self._retiring = frozenset(found for name in components if (found := engine_of_retired_component(name)))
            self._components = components

    def _is_as_before(self, engine_id: str) -> bool:
        """Say whether an engine that the sidecar shows was there at the last look and is in use."""
        engine = self._engines.get(engine_id)
        return engine is not None and not engine.absent_polls and engine.state != EngineState.RETIRED

    async def _is_new(self, engine_id: str) -> bool:
        """Note that the sidecar shows an engine; return whether the engine is new or was retired."""
        engine = self._engines.get(engine_id)
        if engine is None:
            self._engines[engine_id] = KnownEngine(engine_id)
            return True
        engine.absent_polls = 0
        if engine.state != EngineState.RETIRED:
            return False
        # A quarantined engine stays quarantined when it is removed and deployed again.
        state = EngineState.QUARANTINED if engine.reason else EngineState.ACTIVE
        await self.set_state(engine, state, engine.reason, by_operator=engine.by_operator)
        return True

    async def _retire(self, engine_id: str) -> None:
        """Take no more jobs for an engine that is being removed, nor for its trial, also if this gateway never saw it."""
        self._engines.setdefault(engine_id, KnownEngine(engine_id))
        for engine in (self._engines[engine_id], self._engines.get(trial_of(engine_id))):
            if engine and engine.state != EngineState.RETIRED:
                await self._set_retired(engine)

    async def _set_retired(self, engine: KnownEngine) -> None:
        """Retire an engine. A quarantine's reason stays: the engine is quarantined again if it is deployed again."""
        is_quarantined = engine.state == EngineState.QUARANTINED
        reason, by_operator = (engine.reason, engine.by_operator) if is_quarantined else (None, False)
        await self.set_state(engine, EngineState.RETIRED, reason, by_operator=by_operator)

    async def _note_absent(self, engine: KnownEngine) -> None:
        """Note that the sidecar does not show an engine; retire the engine when it has been absent for long enough."""
        was_absent = engine.is_absent
        engine.absent_polls += 1
        if engine.is_absent and not was_absent:
            log.warning(f"Engine {engine.id} is no longer loaded", action="engine_absent", engine_id=engine.id)
        # The sidecar may just be unable to load the engine's file: then its jobs wait until the file is mended.
        if engine.is_absent and not self._has_bundle(engine_of(engine.id)):
            await self._set_retired(engine)

    def _has_bundle(self, engine_id: str) -> bool:
        return self._bundles is not None and (self._bundles / engine_id).is_dir()

    def _without_card(self) -> list[str]:
        """Return a few of the engines that have shown no card, those that have waited longest, and let them wait again."""
        now = time.monotonic()
        present = self._reachable - self._retiring
        due = [each for each in self if each.card is None and each.card_due_at <= now and each.id in present]
        chosen = heapq.nsmallest(_WITHOUT_CARD_AT_ONCE, due, key=lambda engine: engine.card_due_at)
        for engine in chosen:
            engine.card_due_at = now + engine.card_pause_seconds
            engine.card_pause_seconds = min(2 * engine.card_pause_seconds, _LONGEST_CARD_PAUSE_SECONDS)
        return [engine.id for engine in chosen]

    async def set_state(
        self,
        engine: KnownEngine,
        state: EngineState,
        reason: str | None = None,
        probe_at: float | None = None,
        *,
        by_operator: bool = False,
    ) -> None:
        """Set an engine's state, here and in the ledger for all other gateways."""
        changed = engine.state != state
        engine.set_state(state, reason, probe_at, by_operator=by_operator)
        engine.writes += 1
        engine.set_at = math.inf  # Until it is written, the ledger says what was before.
        try:
            # The row's new moment is not noted: another gateway may have written a card there since it was read.
            await self._ledger.set_engine_state(engine.id, state, reason, probe_at, by_operator=by_operator)
        except BaseException:
            self._all_states_at = 0  # What the ledger has holds, however old it is.
            raise
        finally:
            engine.writes -= 1
            if not engine.writes:
                engine.set_at = time.monotonic()
        if changed:
            log.info(f"Engine {engine.id} is {state}", action=f"engine_{state}", engine_id=engine.id, reason=reason)

    async def sync_states(self) -> None:
        """Take over the states that other gateways decided, and note which engines they have written about."""
        began = time.monotonic()
        since = time.time() - (began - self._synced_at) - _CLOCKS_DIFFER_SECONDS
        if all_of_them := began >= self._all_states_at:
            self._all_states_at, since = began + _ALL_STATES_SECONDS, 0.0
        try:
            rows = await self._ledger.read(read.engine_states, since)
        except Unavailable:
            if all_of_them:
                self._all_states_at = 0
            raise
        self._synced_at = began
        for row in rows:
            if row.updated_at != self._updated_at.get(row.id) and row.state != EngineState.RETIRED:
                self._news.add(engine_of(row.id))
            self._updated_at[row.id] = row.updated_at
            engine = self._engines.get(row.id)
            # This gateway may have changed the state while the rows were read, or just before: its decision is newer.
            if engine is not None and engine.set_at < began:
                engine.set_state(row.state, row.reason, row.probe_at, by_operator=row.by_operator)

    async def read_card(self, engine_id: str) -> None:
        """Read an engine's card and workers again; if its store does not answer, leave them as they are."""
        engine = self._engines.get(engine_id)
        if engine is None:
            return
        try:
            cards = await self._reader.read_cards(engine)
        except EnginehouseError as error:
            log.warning(f"The card of {engine_id} cannot be read: {error}", action="card_unread", engine_id=engine_id)
            if engine.card:  # It may be another one by now. One without a card is asked in its turn.
                self._news.add(engine_id)
            return
        await self._take_card(engine, card_of_active(engine, cards, self._engines.get(trial_of(engine_id))))
        await self._follow_trial(engine, card_of_trial(engine, cards))

    async def _follow_trial(self, engine: KnownEngine, card: EngineCard | None) -> None:
        """Begin, follow or end the entry of an engine's version on trial, whose card this is."""
        address = trial_of(engine.id)
        if is_on_trial(engine):
            if card and not self._is_followed(address, card):
                await self._begin_trial(address)
            elif address not in self._engines:
                return  # It is not ready yet.
            trial = self._engines.setdefault(address, KnownEngine(address))
            trial.seen_on_trial_at = time.monotonic()
            trial.set_workers(engine.workers_of_all_slots)
            if card and trial.state == EngineState.RETIRED:
                trial.forget_failures()
                await self.set_state(trial, EngineState.ACTIVE)
            await self._take_card(trial, card)
        elif ended := self._ended_trial(engine):
            await self.set_state(ended, EngineState.RETIRED)

    def _ended_trial(self, engine: KnownEngine) -> KnownEngine | None:
        trial = self._engines.get(trial_of(engine.id))
        return trial if trial and trial.state != EngineState.RETIRED and has_ended(trial, engine) else None

    def _is_followed(self, address: str, card: EngineCard) -> bool:
        trial = self._engines.get(address)
        return trial is not None and trial.state != EngineState.RETIRED and trial.card == card

    async def _begin_trial(self, address: str) -> None:
        try:
            await self.on_trial(address)
        except EnginehouseError as error:
            log.warning(
                f"The first job of {address} may be found late: {error}", action="trial_unrinsed", engine_id=address
            )

    async def _take_card(self, engine: KnownEngine, card: EngineCard | None) -> None:
        is_news = card is not None and card != engine.card
        if card and is_news:
            is_redeployed = engine.card is not None and engine.card.deployment != card.deployment
            engine.set_card(card)
            log.info(
                f"Engine {engine.id} shows its card", action="card_read", engine_id=engine.id, version=card.version
            )
            if is_redeployed:
                await self.on_deployment(engine)
        if is_news or not engine.is_saved:
            card_json = engine.card.model_dump_json() if engine.card else None
            self._updated_at[engine.id] = await self._ledger.save_engine(engine.id, card_json)
            engine.is_saved = True

    async def announced(self, engine_id: str) -> None:
        """Read the card of an engine whose runner was heard of, or look for the engine until the sidecar shows it."""
        if not self._is_as_before(engine_id):
            self._announced[engine_id] = time.monotonic() + _ANNOUNCED_SECONDS
        await self.read_card(engine_id)

    def _is_look_due(self) -> bool:
        now = time.monotonic()
        for engine_id, until in list(self._announced.items()):
            if until <= now or self._is_as_before(engine_id):
                del self._announced[engine_id]
        return bool(self._announced) or now >= self._look_at

    async def read_workers(self, engine: KnownEngine, since: float = 0) -> list[Heartbeat]:
        """Return an engine's living workers. Raise Unavailable if the store is away.

        The list may be two seconds old, but not from before `since`, a moment of the monotonic clock.
        """
        async with self._budget.spend():
            return await self._reader.read_workers(engine, force=engine.workers_read_at < since)

    async def catch_up(self) -> None:
        """Take over states and read cards. Ask the sidecar as well, less often the more it shows: its answer has it all."""
        await self.sync_states()
        await (self.refresh() if self._is_look_due() else self._read_cards())

    async def run(self, poll_seconds: float) -> None:
        """Catch up again and again, for ever."""
        while True:
            try:
                await self.catch_up()
            except Unavailable as error:
                log.warning(
                    f"The list of engines stays as it is, because the sidecar or the ledger does not answer: {error}",
                    action="engines_kept",
                )
            except Exception:
                log.exception("The list of engines could not be compared", action="engines_failed")
            await asyncio.sleep(poll_seconds)


async def _do_nothing(engine: KnownEngine | str) -> None:
    """Stand in until somebody wants to know of deployments or trials."""
