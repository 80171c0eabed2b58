"""Reads an engine's card and its workers' heartbeats from the engine's own store."""

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from enginehouse.contracts.engine import CARD_MAX_BYTES, EngineCard, Heartbeat, WorkerList
from enginehouse.contracts.names import SLOTS, WORKERS_KEY, Slot, card_key, results_component, worker_key
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.sidecar.base import Sidecar, StateItem

log = structlog.get_logger()

M = TypeVar("M", bound=BaseModel)

_WORKERS_FRESH_SECONDS = 2.0
_BEAT_MAX_BYTES = 256 * 1024
"""Most bytes of a heartbeat, which names at most a window of jobs, 4 * JOBS_AT_ONCE_MAX. It is parsed in the event loop."""
_LIST_MAX_BYTES = 64 * 1024
"""Most bytes of the list of workers."""


def _parsed(kind: type[M], items: Iterable[StateItem], max_bytes: int) -> list[M]:
    """Parse the items and skip those that cannot be parsed or are too large: a broken value must not hide the others."""
    found = []
    for item in items:
        if len(item.value) > max_bytes:
            continue
        with contextlib.suppress(ValidationError):
            found.append(kind.model_validate_json(item.value))
    return found


class CardReader:
    """Reads cards and heartbeats. Every call raises Unavailable if the engine's store does not answer."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    async def read_cards(self, engine: KnownEngine) -> dict[Slot, EngineCard]:
        """Return the cards of both slots, as far as they can be read, and read the engine's workers."""
        items = await self._read(engine, [card_key(slot) for slot in SLOTS])
        cards: dict[Slot, EngineCard] = {}
        for slot in SLOTS:
            item = items.get(card_key(slot))
            if item and len(item.value) <= CARD_MAX_BYTES:
                try:
                    cards[slot] = EngineCard.model_validate_json(item.value)
                except ValidationError:
                    log.warning(f"The card of {engine.id} is malformed", action="card_malformed", engine_id=engine.id)
        return cards

    async def read_workers(self, engine: KnownEngine, *, force: bool = False) -> list[Heartbeat]:
        """Return the workers of all slots whose heartbeat lives; two seconds old at most, or new with `force`."""
        if force or time.monotonic() - engine.workers_read_at >= _WORKERS_FRESH_SECONDS:
            await self._read(engine)
        return engine.workers_of_all_slots

    async def _read(self, engine: KnownEngine, more: Sequence[str] = ()) -> Mapping[str, StateItem]:
        """Read an engine's workers, and `more` keys beside them. One call, while no worker is new."""
        store, known = results_component(engine.id), engine.worker_keys
        items = await self._sidecar.read_many(store, [*more, WORKERS_KEY, *known])
        listed = _parsed(WorkerList, [items[WORKERS_KEY]] if WORKERS_KEY in items else [], _LIST_MAX_BYTES)
        keys = list(dict.fromkeys(worker_key(name) for workers in listed for name in workers.workers))
        if new := [key for key in keys if key not in known]:
            items |= await self._sidecar.read_many(store, new)
        # A key that makes reading fail must not become one of those that each read asks for.
        engine.worker_keys = [key for key in keys if key in items]
        engine.set_workers(_parsed(Heartbeat, [items[key] for key in engine.worker_keys], _BEAT_MAX_BYTES))
        return items
